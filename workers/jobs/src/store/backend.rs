//! From a URL to what `object_store` works with.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{ClientOptions, RetryConfig};

use super::StoreSettings;

/// A bucket, with what the variables `AWS_*` say. The builder shows its secrets to whoever prints it: it stays here.
pub(super) fn s3(
    bucket: &str,
    settings: &StoreSettings,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<AmazonS3, object_store::Error> {
    let mut builder = AmazonS3Builder::new();
    // The builder replaces all its client options at once, so what the environment says about them is kept apart.
    let mut client = ClientOptions::new();
    for (name, value) in environment.filter(|(name, _)| name.starts_with("AWS_")) {
        match name.to_ascii_lowercase().parse() {
            Ok(AmazonS3ConfigKey::Client(key)) => client = client.with_config(key, value),
            Ok(key) => builder = builder.with_config(key, value),
            Err(_) => (),
        }
    }
    // A total timeout would cut large objects off; what counts is that something comes.
    let client = client
        .with_timeout_disabled()
        .with_connect_timeout(settings.connect_timeout)
        .with_read_timeout(settings.read_timeout)
        .with_content_type_for_suffix("json", "application/json")
        .with_content_type_for_suffix("jsonl", "application/jsonl");
    let retry = // The time decides and not their number: ten retries may be over in a few seconds.
    RetryConfig { retry_timeout: settings.retry_for, max_retries: usize::MAX, ..RetryConfig::default() };
    builder.with_bucket_name(bucket).with_client_options(client).with_retry(retry).build()
}

/// The absolute path without links of a folder that may not be there yet.
pub(super) fn resolved(folder: &Path) -> io::Result<PathBuf> {
    let folder = std::path::absolute(folder)?;
    let mut missing = Vec::new();
    for there in folder.ancestors() {
        match there.canonicalize() {
            Ok(real) => return Ok(missing.iter().rev().fold(real, |path, name| path.join(name))),
            Err(why) if why.kind() == ErrorKind::NotFound => match there.file_name() {
                Some(name) => missing.push(name.to_owned()),
                None => return Err(why),
            },
            Err(why) => return Err(why),
        }
    }
    Ok(folder)
}
