//! Parsers of untrusted bytes, one function per fuzz target. Each must end without a panic for any input.
//!
//! `tests/e2e/fuzz_seeds.rs` includes this file and runs it on the seeds.

use std::collections::HashSet;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use candle_core::{DType, Device};
use candle_nn::Init;
use flamingo::error::{Error, WeightsError};
use flamingo::language::Tokenizer;
use flamingo::language::gguf::Gguf;
use flamingo::video::fuzzing;
use flamingo::weights::{Quantization, Rename, Weights};
use inference::decoder;
use jobs::JobId;
use jobs::message::parse_item_message;
use jobs::queue::Message;
use jobs::store::StoreSettings;
use tempfile::NamedTempFile;
use video_worker::admission::Budget;
use video_worker::api::{ITEM_MESSAGE_SCHEMA, ITEM_SCHEMA, Item, JOB_SCHEMA, JobMessage, ListedJob, json};
use video_worker::inputs::Location;
use video_worker::inputs::{Disk, Inputs};
use video_worker::jobs::expand::manifest_items;
use video_worker::settings;

/// Function that accepts any bytes and panics only on a defect.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 7] = [
    ("message", message),
    ("manifest", manifest),
    ("settings", settings),
    ("weights", weights),
    ("sniff", sniff),
    ("times", times),
    ("wire", wire),
];

/// Job and item messages of the queue: a parsed message survives writing and parsing again.
pub fn message(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    if let Ok(job) = JobMessage::parse(&Message::new("job".into(), JOB_SCHEMA, body.clone())) {
        let again = JobMessage::from_ledger(&json(&job)).expect("a written job can be parsed");
        assert_eq!(again, job);
        let new = job.to_new().expect("a checked job has an id");
        let kept = JobMessage::from_ledger(&new.message).expect("the ledger's copy can be parsed");
        kept.check().expect("the ledger's copy is a valid job");
        let kept = kept.to_new().expect("the ledger's copy has an id");
        assert_eq!((kept.id, kept.request_sha256), (new.id, new.request_sha256));
    }
    if let Ok(item) =
        std::str::from_utf8(bytes).map_err(drop).and_then(|text| Item::parse(text).map_err(drop))
    {
        check_item(&item);
    }
    let _ = parse_item_message(
        &Message::new("item".into(), ITEM_MESSAGE_SCHEMA, body),
        ITEM_MESSAGE_SCHEMA,
        Some(ITEM_SCHEMA),
    );
}

fn check_item(item: &Item) {
    let Ok(again) = Item::parse(&json(item)) else { panic!("a written item cannot be parsed") };
    assert_eq!(again, *item);
}

/// The lines of a manifest: every item has a unique id and can be sent.
pub fn manifest(bytes: &[u8]) {
    let place = |text| Location::parse(text).expect("a location");
    let allow = vec![place("s3://videos/open"), place("/videos")];
    let disk = Disk { folder: std::env::temp_dir(), room: Budget::new(0), timeout: Duration::ZERO };
    let inputs = Inputs::new(allow, StoreSettings::default(), disk);
    let job = r#"{"schema": "flamingo.job/1", "job_id": "m", "tasks": [{"kind": "caption"}],
        "input": {"manifest": "s3://videos/open/m.jsonl"}}"#;
    let job = JobMessage::from_ledger(job).expect("a job");
    let id = JobId::try_from("m".to_owned()).expect("a name");
    let job = ListedJob::new(&job, &id, None).expect("its tasks name their labels");
    let Ok(items) = manifest_items(&inputs, &job, &place("s3://videos/open/m.jsonl"), bytes) else {
        return;
    };
    let names: HashSet<_> = items.iter().map(|item| &item.item_id).collect();
    assert_eq!(names.len(), items.len());
    items.iter().for_each(check_item);
}

/// The text of a settings file: an error message contains no password of the file.
pub fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let file = file(".toml", bytes);
    if let Err(error) = settings::load(Some(file.path()), &[]) {
        let message = error.to_string();
        for password in passwords(text) {
            assert!(!message.contains(password), "{password:?} is in: {message}");
        }
    }
}

/// Passwords of a settings file: the text between `://name:` and `@` in the value of a line, if it is long
/// enough to differ from other words.
fn passwords(text: &str) -> Vec<&str> {
    let of = |line| {
        let (_, value): (&str, &str) = str::split_once(line, '=')?;
        let value = value.trim().strip_prefix('"')?;
        let (_, rest) = value.split_once("://")?;
        let (_, password) = rest.split_once('@')?.0.split_once(':')?;
        let plain = password.len() >= 8 && password.bytes().all(|b| b.is_ascii_alphanumeric());
        (plain && text.matches(password).count() == 1).then_some(password)
    };
    text.lines().filter_map(of).collect()
}

/// A checkpoint of any format: its header and its small tensors.
pub fn weights(bytes: &[u8]) {
    let file = match bytes {
        [b'G', b'G', b'U', b'F', ..] => file(".gguf", bytes),
        [b'P', b'K', ..] => file(".pt", bytes),
        // A pickle, packed into an archive with correct checksums.
        [0x80, ..] => file(".pt", &archive(bytes)),
        _ => file(".safetensors", bytes),
    };
    if file.path().extension().is_some_and(|extension| extension == "gguf")
        && let Ok(gguf) = Gguf::open(file.path())
    {
        let _ = (gguf.architecture(), gguf.llama_config());
        if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
            let _ = tokenizer.encode("a cat <image> 42");
        }
    }
    for quantization in [Quantization::Keep, Quantization::Dequantize, Quantization::Q4K] {
        read_tensors(file.path(), quantization);
    }
}

fn read_tensors(path: &Path, quantization: Quantization) {
    const LARGEST: usize = 1 << 16;
    const UNUSED: Init = Init::Const(0.0);
    let names = Mutex::new(Vec::new());
    let rename = |name: &str| {
        names.lock().expect("one thread").push(name.to_owned());
        Rename::To(name.into())
    };
    let files: [PathBuf; 1] = [path.into()];
    let Ok(weights) = Weights::open(&files, &Device::Cpu, DType::F32, quantization, &rename) else { return };
    for name in names.into_inner().expect("one thread") {
        // The error for a wrong shape contains the right one.
        let Err(Error::Weights(WeightsError::Shape { found, .. })) =
            weights.get((1, 2, 3, 4, 5), &name, UNUSED)
        else {
            continue;
        };
        if found.iter().try_fold(1usize, |n, dim| n.checked_mul(*dim)).is_some_and(|n| n <= LARGEST) {
            let _ = weights.get(found.clone(), &name, UNUSED);
            let _ = weights.matrix(found, &name, UNUSED);
        }
    }
    let _ = weights.finish();
}

/// Packs a pickle into an archive with one storage, as `torch.save` does.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("archive/data.pkl", pickle), ("archive/data/0", &[7; 256])] {
        zip.start_file(name, stored).expect("a name");
        zip.write_all(bytes).expect("memory takes it");
    }
    zip.finish().expect("memory takes it").into_inner()
}

/// Repair of packet times.
pub fn times(bytes: &[u8]) {
    fuzzing::times(bytes);
}

/// Format detection from the first bytes, and the parsing of packets.
pub fn sniff(bytes: &[u8]) {
    const CODECS: [&str; 9] =
        ["h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "mjpeg", "something else"];
    fuzzing::first_bytes(bytes);
    fuzzing::image_headers(bytes);
    let [codec, sizes, rest @ ..] = bytes else { return };
    let codec = CODECS[usize::from(*codec) % CODECS.len()];
    let (extra, packet) = rest.split_at(usize::from(sizes >> 1).min(rest.len()));
    fuzzing::packet(codec, extra, packet, sizes & 1 == 1);
}

/// Messages of the decoder process: a parsed message survives writing and parsing again.
pub fn wire(bytes: &[u8]) {
    let understood = decoder::fuzzing::reencode(bytes, 1 << 16);
    assert_eq!(decoder::fuzzing::reencode(&understood, 1 << 16), understood);
}

fn file(suffix: &str, bytes: &[u8]) -> NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(suffix).tempfile().expect("a temporary file");
    file.write_all(bytes).expect("room for a temporary file");
    file
}
