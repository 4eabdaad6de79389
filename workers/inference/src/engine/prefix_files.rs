//! Prefixes on disk, for the next start of a worker: keys and values of the text and of its media.
//!
//! A file is named by a hash of all that its numbers depend on, and holds a SHA-256 and the numbers alone. Their shapes follow
//! from the prefix, so no byte of a file decides how much is read. A file of another length or with another hash is ignored.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, IntoInnerError, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::SystemTime;

use candle_core::{DType, Shape, Tensor};
use flamingo::atomic_file::write_atomic_with;
use flamingo::digest::{Hashing, sha256};
use flamingo::family::LoadOptions;
use flamingo::kernels::attention::Kv;
use flamingo::model::MediaKv;
use flamingo::pipeline::{Medium, Pipeline};
use flamingo::{Error, Result};
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, futimens};

/// Part of every name: files of an incompatible build are not found.
const FORMAT_VERSION: &str = "flamingo.prefix/1";

/// End of the names of files.
const EXTENSION: &str = ".prefix";

/// Bytes per call of the system that reads or writes a file.
const BUFFER: usize = 1 << 20;

/// Bytes of the hash at the beginning of a file.
const HASH: u64 = 32;

/// Folder of prefixes, and its budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixFolder {
    /// The folder; several workers may share it.
    pub path: PathBuf,
    /// Bytes of all files together. The least recently used ones are removed.
    pub bytes: u64,
}

/// Keys and values of a prefix.
pub(super) struct PrefixKv {
    /// Of its tokens (h_kv, n, d), per layer of the language model.
    pub(super) text: Vec<Kv>,
    /// Of its media.
    pub(super) media: Vec<Arc<MediaKv>>,
}

impl PrefixKv {
    /// Returns all tensors in the order of a file.
    fn tensors(&self) -> Vec<Tensor> {
        let text = self.text.iter().flat_map(|(keys, values)| [keys.clone(), values.clone()]);
        text.chain(self.media.iter().flat_map(|kv| kv.tensors())).collect()
    }
}

/// A prefix to find: its tokens and its media.
pub(super) struct PrefixContent<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) ids: &'a [u32],
    pub(super) media: &'a [Medium],
}

impl PrefixContent<'_> {
    /// Returns the name of the file: a hash of all weights, of the choices of the load, of the tokens, and of the visual tokens of
    /// all media.
    ///
    /// # Errors
    /// The device refuses to copy visual tokens.
    pub(super) fn file_name(&self) -> Result<String> {
        let (loaded, options) = (self.pipeline.loaded(), self.pipeline.options());
        let medium = |medium: &Medium| {
            let tokens = medium.visual_tokens.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            let bytes: Vec<u8> = tokens.iter().flat_map(|value| value.to_le_bytes()).collect();
            Ok((medium.visual_tokens.dims2()?, medium.visible, sha256(&bytes)))
        };
        let media = self.media.iter().map(medium).collect::<Result<Vec<_>>>()?;
        let load = format!("{:?} {:?} {:?}", options.dtype, options.quantization, options.family);
        let model =
            (&loaded.info.family, &loaded.info.sha256, &loaded.visual_sha256, &loaded.language_sha256);
        let all = serde_json::json!([FORMAT_VERSION, model, load, self.ids, media]);
        Ok(format!("{}{EXTENSION}", sha256(all.to_string().as_bytes())))
    }

    /// Returns the shapes of the tensors of the text, and of each medium.
    fn shapes(&self) -> Result<(Vec<Shape>, Vec<Vec<Shape>>)> {
        let cache = &self.pipeline.loaded().model.language().sizes().cache;
        let text = vec![Shape::from((cache.heads, self.ids.len(), cache.width)); 2 * cache.layers];
        let medium = |medium: &Medium| {
            let shapes = self.pipeline.media_kv_shapes(medium)?;
            Ok(shapes.into_iter().map(Shape::from).collect())
        };
        Ok((text, self.media.iter().map(medium).collect::<Result<_>>()?))
    }
}

impl PrefixFolder {
    /// Reads a prefix, and marks its file as used. `None`: there is no file, or it is not right.
    pub(super) fn read(&self, name: &str, prefix: &PrefixContent) -> Option<PrefixKv> {
        let path = self.path.join(name);
        match File::open(&path).and_then(|file| read(&file, name, prefix)) {
            Ok(kv) => Some(kv),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "ignored a prefix on disk");
                }
                None
            }
        }
    }

    /// Writes a prefix; removes the least recently used ones first, so that all stay within the budget.
    fn write(&self, name: &str, kv: &PrefixKv) {
        let path = self.path.join(name);
        let tensors = kv.tensors();
        let bytes = HASH + tensors.iter().map(size).sum::<u64>();
        if bytes > self.bytes {
            tracing::warn!(bytes, budget = self.bytes, "a prefix is too large for its folder");
            return;
        }
        let room = fs::create_dir_all(&self.path).and_then(|()| self.make_room(bytes, name));
        match room.and_then(|()| write_atomic_with(&path, |file| write(file, name, &tensors))) {
            Ok(()) => tracing::info!(bytes, "wrote a prefix to disk"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot write a prefix to disk"),
        }
    }

    /// Removes files until `bytes` fit, the least recently used first, and the file `name` that is to be replaced.
    fn make_room(&self, bytes: u64, name: &str) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let (path, metadata) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
            let file = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
            // Unfinished files of workers that were killed have this extension and another one.
            if file.contains(EXTENSION) && file != name {
                files.push((metadata.modified()?, metadata.len(), path));
            }
        }
        files.sort();
        let mut used: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, len, path) in files {
            if used + bytes <= self.bytes {
                break;
            }
            match fs::remove_file(&path) {
                // Another worker has removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
            used -= len;
        }
        Ok(())
    }
}

/// Thread that writes prefixes, so that no query waits for a disk. It ends after the last one when its senders are gone.
pub(super) struct PrefixWriter(Option<JoinHandle<()>>);

/// Prefixes to write, with the names of their files.
pub(super) type PrefixSender = SyncSender<(String, PrefixKv)>;

impl PrefixWriter {
    /// Starts the thread.
    pub(super) fn start(folder: PrefixFolder) -> (Self, PrefixSender) {
        let (sender, prefixes) = sync_channel::<(String, PrefixKv)>(1);
        let thread = std::thread::Builder::new().name("prefix-writer".into());
        let write = move || prefixes.iter().for_each(|(name, kv)| folder.write(&name, &kv));
        (Self(Some(thread.spawn(write).expect("the process can start a thread"))), sender)
    }
}

impl Drop for PrefixWriter {
    /// Waits until all prefixes are written. The senders must be gone.
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

/// Reads the tensors of a file. Their number and shapes are those of the prefix.
fn read(file: &File, name: &str, prefix: &PrefixContent) -> io::Result<PrefixKv> {
    let (text, media) = prefix.shapes().map_err(io::Error::other)?;
    let options = prefix.pipeline.options();
    let shapes = text.iter().chain(media.iter().flatten());
    let numbers: u64 = shapes.map(|shape| shape.elem_count() as u64).sum();
    let expected = HASH + numbers * options.dtype.size_in_bytes() as u64;
    let len = file.metadata()?.len();
    if len != expected {
        return Err(io::Error::other(format!("it has {len} bytes instead of {expected}")));
    }
    let (mut file, mut hash) = (file, [0; HASH as usize]);
    file.read_exact(&mut hash)?;
    let mut reader = Hashing::new(file, name.as_bytes());
    let mut next = |shape: &Shape| {
        let mut bytes = vec![0; shape.elem_count() * options.dtype.size_in_bytes()];
        reader.read_exact(&mut bytes)?;
        tensor(&bytes, shape, options).map_err(io::Error::other)
    };
    let text = text.iter().map(&mut next).collect::<io::Result<Vec<_>>>()?;
    let media = media.iter().map(|shapes| shapes.iter().map(&mut next).collect::<io::Result<Vec<_>>>());
    let media = media.collect::<io::Result<Vec<_>>>()?;
    if reader.finish().1 != hash {
        return Err(io::Error::other("its SHA-256 is wrong"));
    }
    let join = |(medium, tensors)| prefix.pipeline.join_media_kv(medium, tensors);
    let media = prefix.media.iter().zip(media).map(join).collect::<Result<_>>().map_err(io::Error::other)?;
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let unchanged = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    futimens(file, &Timestamps { last_access: unchanged, last_modification: now })?;
    let text = text.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    Ok(PrefixKv { text, media })
}

/// Makes a tensor of the bytes of a file.
fn tensor(bytes: &[u8], shape: &Shape, options: &LoadOptions) -> Result<Tensor> {
    let tensor = Tensor::from_raw_buffer(bytes, options.dtype, shape.dims(), &options.device)?;
    let sum = tensor.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
    if sum.is_finite() { Ok(tensor) } else { Err(Error::Prompt("a number is not finite".into())) }
}

fn write(file: &mut File, name: &str, tensors: &[Tensor]) -> io::Result<()> {
    file.write_all(&[0; HASH as usize])?;
    let mut writer = BufWriter::with_capacity(BUFFER, Hashing::new(file, name.as_bytes()));
    for tensor in tensors {
        tensor.write_bytes(&mut writer).map_err(io::Error::other)?;
    }
    let (file, hash) = writer.into_inner().map_err(IntoInnerError::into_error)?.finish();
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&hash)
}

fn size(tensor: &Tensor) -> u64 {
    (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64
}
