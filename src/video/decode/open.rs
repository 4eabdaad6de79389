//! A file -> its packets: opening under FFmpeg with everything shut that a video does not need.
//!
//! FFmpeg gets a reader over one open file and no path. Opening anything else is impossible: the demuxer is named by
//! our own sniffing rather than probed, protocols and formats are on lists, and the list of protocols holds none.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Once};

use ffmpeg::format::context::{Input, StreamIo};
use ffmpeg::packet::Ref;
use ffmpeg::{Dictionary, Packet, codec, ffi, format, media};
use ffmpeg_next as ffmpeg;

use crate::error::VideoError;
use crate::video::bitstream::Syntax;
use crate::video::{Orientation, VideoLimits};

const FORMATS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,avi";
const CODECS: [&str; 9] = ["h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg"];
/// Decoders by FFmpeg's names of them: AV1 has several.
const DECODERS: &str = "h264,hevc,vp8,vp9,libdav1d,libaom-av1,av1,mpeg4,mpeg2video,mpeg1video,mjpeg";
/// Large reads: files are local and read from end to end.
const READ_BYTES: usize = 256 << 10;
/// FFmpeg measures `max_pixels` against widths rounded up to 64; what a frame really has is checked here, exactly.
const ALIGNMENT_PIXELS: u64 = 64 * 16_384;
/// A damaged file may fail many reads before the demuxer finds its feet again, but not for ever.
const MOST_READ_ERRORS: usize = 64;

/// The open file behind a video, and what it was recognised as.
#[derive(Clone)]
pub(in crate::video) struct Source {
    pub file: Arc<File>,
    pub length: u64,
    /// What its header says its length is.
    pub promised: Option<u64>,
    pub path: PathBuf,
    /// FFmpeg's name of the demuxer.
    pub container: &'static str,
}

/// Reads at a position of its own, so that several passes share one open file.
struct Reader {
    file: Arc<File>,
    at: u64,
    length: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => i128::from(at),
            SeekFrom::Current(by) => i128::from(self.at) + i128::from(by),
            SeekFrom::End(by) => i128::from(self.length) + i128::from(by),
        };
        self.at = u64::try_from(target).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

/// What the header says about the video stream.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub codec: &'static str,
    pub syntax: Syntax,
    /// Seconds per tick, numerator and denominator.
    pub time_base: (i64, i64),
    /// Packets that the container promises; 0 when it does not say.
    pub promised_packets: usize,
    pub width: u32,
    pub height: u32,
    pub orientation: Orientation,
}

/// The packets of a file's video stream, in decoding order. Deterministic: the same file gives the same packets.
pub(super) struct Demuxer {
    input: Input,
    stream: usize,
    /// Why reading ended, when it was not the end of the file.
    pub broken: Option<String>,
}

impl Demuxer {
    pub(super) fn open(source: &Source, limits: &VideoLimits) -> Result<(Self, Header), VideoError> {
        silence();
        let path = || source.path.clone();
        let malformed = |e: ffmpeg::Error| VideoError::Malformed {
            path: path(),
            container: source.container.into(),
            reason: e.to_string(),
        };
        let mut input = match open_input(source, limits) {
            Ok(input) => input,
            // What FFmpeg answers beyond `max_streams`.
            Err(ffmpeg::Error::Other { errno: ffi::ENOMEM }) => {
                return Err(VideoError::TooManyStreams { path: path(), allowed: limits.max_streams });
            }
            Err(e) => return Err(malformed(e)),
        };
        if input.nb_streams() > limits.max_streams {
            return Err(VideoError::TooManyStreams { path: path(), allowed: limits.max_streams });
        }
        let (stream, header) = video_stream(&input, source)?;
        limits.check_pixels(&source.path, header.width, header.height)?;
        discard_others(&mut input, stream);
        Ok((Demuxer { input, stream, broken: None }, header))
    }

    /// The next packet of the video stream; `None` at the end, or where the file breaks.
    pub(super) fn next(&mut self) -> Option<Packet> {
        let mut errors = 0;
        loop {
            let mut packet = Packet::empty();
            match packet.read(&mut self.input) {
                Ok(()) if packet.stream() == self.stream => {
                    if packet.is_corrupt() {
                        self.broken = Some("a packet is cut off".into());
                    }
                    return Some(packet);
                }
                Ok(()) => {}
                Err(ffmpeg::Error::Eof) => return None,
                Err(e) => {
                    self.broken = Some(e.to_string());
                    errors += 1;
                    // Anything but invalid data comes from reading the file, and would come again.
                    if e != ffmpeg::Error::InvalidData || errors > MOST_READ_ERRORS {
                        return None;
                    }
                }
            }
        }
    }

    /// A fresh decoder of the video stream.
    pub(super) fn decoder(&self, limits: &VideoLimits) -> Result<codec::decoder::Video, ffmpeg::Error> {
        let stream = self.input.stream(self.stream).ok_or(ffmpeg::Error::StreamNotFound)?;
        let mut context = codec::Context::from_parameters(stream.parameters())?;
        let threads = limits.decoder_threads.clamp(1, 64);
        context.set_threading(codec::threading::Config {
            kind: codec::threading::Type::Frame,
            count: threads,
            ..Default::default()
        });
        let mut decoder = context.decoder();
        decoder.set_packet_time_base(stream.time_base());
        decoder.open_as_with(stream.parameters().id(), decoder_options(limits))?.video()
    }
}

/// Outside the container's edit list: decoded, not presented.
#[allow(unsafe_code)]
pub(super) fn is_hidden(packet: &Packet) -> bool {
    // SAFETY: `as_ptr` points to the AVPacket inside `packet`, which outlives this read.
    unsafe { (*packet.as_ptr()).flags & ffi::AV_PKT_FLAG_DISCARD != 0 }
}

/// FFmpeg writes to stderr by itself, once per process and for all users in it. Errors are ours to tell.
fn silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Registration only; it cannot fail with these features.
        let _ = ffmpeg::init();
        ffmpeg::util::log::set_level(ffmpeg::util::log::Level::Quiet);
    });
}

fn decoder_options(limits: &VideoLimits) -> Dictionary<'static> {
    let mut options = Dictionary::new();
    let pixels = limits.max_pixels.saturating_add(ALIGNMENT_PIXELS).min(i32::MAX as u64);
    options.set("max_pixels", &pixels.to_string());
    options.set("codec_whitelist", DECODERS);
    options
}

#[allow(unsafe_code)]
fn open_input(source: &Source, limits: &VideoLimits) -> Result<Input, ffmpeg::Error> {
    let reader = Reader { file: source.file.clone(), at: 0, length: source.length };
    let mut io = StreamIo::from_read_seek_with_capacity(reader, READ_BYTES)?;
    let mut options = Dictionary::new();
    options.set("protocol_whitelist", "none");
    options.set("format_whitelist", FORMATS);
    options.set("codec_whitelist", DECODERS);
    options.set("max_streams", &limits.max_streams.saturating_add(1).min(i32::MAX as u32).to_string());
    let name = CString::new(source.container).map_err(|_| ffmpeg::Error::DemuxerNotFound)?;
    // SAFETY: the context is ours until `wrap_with_custom_io` takes it together with the reader that it points to;
    // a failing `avformat_open_input` frees the context and leaves the reader to us. The dictionary is disowned for
    // the call, which may replace it, and owned again, so it is freed once.
    let input = unsafe {
        let format = ffi::av_find_input_format(name.as_ptr());
        let mut context = ffi::avformat_alloc_context();
        if format.is_null() || context.is_null() {
            ffi::avformat_free_context(context);
            return Err(ffmpeg::Error::DemuxerNotFound);
        }
        (*context).pb = io.as_mut_ptr();
        (*context).flags |= ffi::AVFMT_FLAG_CUSTOM_IO;
        let mut options = options.disown();
        let code = ffi::avformat_open_input(&mut context, std::ptr::null(), format, &mut options);
        drop(Dictionary::own(options));
        if code < 0 {
            return Err(ffmpeg::Error::from(code));
        }
        Input::wrap_with_custom_io(context, io)
    };
    find_stream_info(input, limits)
}

/// Finding out about streams decodes a few frames, so the limits of the decoder hold here too: the wrapper's own
/// opening would let a small file allocate pictures of any size.
#[allow(unsafe_code)]
fn find_stream_info(mut input: Input, limits: &VideoLimits) -> Result<Input, ffmpeg::Error> {
    // SAFETY: one dictionary per stream that is known now, as the call wants it (it never reads beyond that number,
    // even if it finds more streams); each is disowned for the call and owned again after it, so freed once.
    let code = unsafe {
        let streams = input.nb_streams() as usize;
        let mut options: Vec<_> = (0..streams).map(|_| decoder_options(limits).disown()).collect();
        let code = ffi::avformat_find_stream_info(input.as_mut_ptr(), options.as_mut_ptr());
        options.into_iter().for_each(|options| drop(Dictionary::own(options)));
        code
    };
    if code < 0 { Err(ffmpeg::Error::from(code)) } else { Ok(input) }
}

/// The best video stream that is not a cover picture.
fn video_stream(input: &Input, source: &Source) -> Result<(usize, Header), VideoError> {
    let is_video = |stream: &format::stream::Stream| {
        stream.parameters().medium() == media::Type::Video
            && !stream.disposition().contains(format::stream::Disposition::ATTACHED_PIC)
    };
    let best = input.streams().best(media::Type::Video).filter(is_video);
    let Some(stream) = best.or_else(|| input.streams().find(is_video)) else {
        return Err(VideoError::NoVideoStream { path: source.path.clone() });
    };
    let codec = stream.parameters().id().name();
    if !CODECS.contains(&codec) {
        return Err(VideoError::CodecNotAllowed { path: source.path.clone(), codec: codec.into() });
    }
    let (width, height, extra) = parameters(&stream);
    let matrix = stream.side_data().find(|data| data.kind() == codec::packet::side_data::Type::DisplayMatrix);
    let base = stream.time_base();
    let header = Header {
        codec,
        syntax: Syntax::new(codec, &extra),
        time_base: (i64::from(base.numerator()), i64::from(base.denominator().max(1))),
        promised_packets: usize::try_from(stream.frames()).unwrap_or(0),
        width,
        height,
        orientation: matrix.map_or(Orientation::default(), |m| Orientation::from_matrix(m.data())),
    };
    Ok((stream.index(), header))
}

/// Width, height and extra data.
#[allow(unsafe_code)]
fn parameters(stream: &format::stream::Stream) -> (u32, u32, Vec<u8>) {
    let parameters = stream.parameters();
    // SAFETY: the parameters live as long as `parameters`, and `extradata` has `extradata_size` bytes or is null.
    unsafe {
        let p = &*parameters.as_ptr();
        let extra = if p.extradata.is_null() || p.extradata_size <= 0 {
            Vec::new()
        } else {
            std::slice::from_raw_parts(p.extradata, p.extradata_size as usize).to_vec()
        };
        (u32::try_from(p.width).unwrap_or(0), u32::try_from(p.height).unwrap_or(0), extra)
    }
}

/// The demuxer skips packets of all other streams where the container allows it.
#[allow(unsafe_code)]
fn discard_others(input: &mut Input, keep: usize) {
    for mut stream in input.streams_mut() {
        if stream.index() != keep {
            // SAFETY: the pointer is to a stream of `input`, which is borrowed mutably; `discard` is meant to be set
            // by the user of the library (avformat.h).
            unsafe { (*stream.as_mut_ptr()).discard = ffi::AVDiscard::AVDISCARD_ALL };
        }
    }
}
