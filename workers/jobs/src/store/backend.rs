//! Construction of `object_store` backends.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{ClientOptions, RetryConfig};

use super::StoreSettings;
use super::raw_keys::EncodedKeys;
use crate::tls;

/// Builds an S3 backend with the settings of the `AWS_*` variables. The builder's `Debug` shows secrets, so it stays here.
pub(super) fn s3(
    bucket: &str,
    settings: &StoreSettings,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<AmazonS3, object_store::Error> {
    tls::install();
    let mut builder = AmazonS3Builder::new();
    // The builder replaces all client options at once, so those of the environment are collected first.
    let mut client = ClientOptions::new();
    for (name, value) in environment.filter(|(name, _)| name.starts_with("AWS_")) {
        match name.to_ascii_lowercase().parse() {
            Ok(AmazonS3ConfigKey::Client(key)) => client = client.with_config(key, value),
            Ok(key) => builder = builder.with_config(key, value),
            Err(_) => (),
        }
    }
    // A total timeout would cut off large objects; the read timeout bounds the time without data.
    let client = client
        .with_timeout_disabled()
        .with_connect_timeout(settings.connect_timeout)
        .with_read_timeout(settings.read_timeout)
        .with_content_type_for_suffix("json", "application/json")
        .with_content_type_for_suffix("jsonl", "application/jsonl");
    // Limit the time and not the number: ten retries may take only a few seconds.
    let retry =
        RetryConfig { retry_timeout: settings.retry_for, max_retries: usize::MAX, ..RetryConfig::default() };
    let builder = builder.with_http_connector(EncodedKeys);
    builder.with_bucket_name(bucket).with_client_options(client).with_retry(retry).build()
}

/// Returns the absolute path of a folder with links resolved; the folder may not exist yet.
pub(super) fn resolve(folder: &Path) -> io::Result<PathBuf> {
    let folder = std::path::absolute(folder)?;
    let mut missing = Vec::new();
    for there in folder.ancestors() {
        match there.canonicalize() {
            Ok(real) => return Ok(missing.iter().rev().fold(real, |path, name| path.join(name))),
            Err(reason) if reason.kind() == ErrorKind::NotFound => match there.file_name() {
                Some(name) => missing.push(name.to_owned()),
                None => return Err(reason),
            },
            Err(reason) => return Err(reason),
        }
    }
    Ok(folder)
}
