//! A file -> its packets. FFmpeg opens the file with everything disabled that a video does not need.
//!
//! FFmpeg gets a reader over one open file and no path. It cannot open anything else: `sniff.rs` chooses the
//! demuxer, so FFmpeg probes nothing; formats are on an allow-list; and the allow-list of protocols is empty.

use std::ffi::CString;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Once};

use ffmpeg::format::context::{Input, StreamIo};
use ffmpeg::packet::Ref;
use ffmpeg::{Dictionary, Packet, codec, color, ffi, format, frame, media};
use ffmpeg_next as ffmpeg;

use crate::error::VideoError;
use crate::video::bitstream::Syntax;
use crate::video::reader::Reader;
use crate::video::{Orientation, VideoLimits};

const FORMATS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,mpeg,avi,mjpeg,flv,asf,ogg";
/// FFmpeg's names of the codecs.
const CODECS: [&str; 19] = [
    "h264",
    "hevc",
    "vp8",
    "vp9",
    "av1",
    "mpeg4",
    "mpeg2video",
    "mpeg1video",
    "mjpeg",
    "prores",
    "dnxhd",
    "h263",
    "flv1",
    "theora",
    "msmpeg4v3",
    "wmv1",
    "wmv2",
    "wmv3",
    "vc1",
];
/// FFmpeg's names of the decoders. AV1 has several.
const DECODERS: &str = "h264,hevc,vp8,libvpx,vp9,libvpx-vp9,libdav1d,libaom-av1,av1,mpeg4,mpeg2video,mpeg1video,mjpeg,\
    prores,dnxhd,h263,flv,theora,msmpeg4,wmv1,wmv2,wmv3,vc1";
/// Reads are large, because files are local and read from end to end.
const READ_BYTES: usize = 256 << 10;
/// FFmpeg compares `max_pixels` with widths rounded up to 64. Our own check compares the exact size of each
/// frame.
const ALIGNMENT_PIXELS: u64 = 64 * 16_384;
/// A damaged file can fail many reads before the demuxer finds the next valid packet. This bounds their
/// number.
const MAX_READ_ERRORS: usize = 64;

/// The open file of a video, with its detected container.
#[derive(Clone)]
pub(in crate::video) struct SourceFile {
    pub file: Arc<File>,
    pub length: u64,
    /// Length in bytes according to the header of the file.
    pub declared_length: Option<u64>,
    pub path: PathBuf,
    /// FFmpeg's name of the demuxer.
    pub container: &'static str,
}

/// Parameters of the video stream from the container header.
#[derive(Debug, Clone)]
pub(super) struct StreamHeader {
    pub codec: &'static str,
    pub syntax: Syntax,
    /// Seconds per tick, numerator and denominator.
    pub time_base: (i64, i64),
    /// Number of packets according to the container; 0 if it gives none.
    pub declared_packets: usize,
    pub width: u32,
    pub height: u32,
    pub orientation: Orientation,
    /// Width of a pixel divided by its height according to the container, if it gives one.
    pixel_aspect: Option<f64>,
    /// FFmpeg's name of the transfer function, if it is known.
    pub transfer: Option<&'static str>,
    /// The pictures have transparent parts, and the decoder gives their colours only.
    pub alpha_ignored: bool,
}

impl StreamHeader {
    /// Returns the size of a picture with square pixels, before rotation. The container's shape of a pixel counts
    /// before that of the picture, as in FFmpeg's own tools; the height stays.
    pub(super) fn shown_size(&self, picture: &frame::Video) -> (u32, u32) {
        let aspect = self.pixel_aspect.or_else(|| pixel_aspect(picture.aspect_ratio())).unwrap_or(1.0);
        let width = (f64::from(picture.width()) * aspect).round().max(1.0);
        (width as u32, picture.height())
    }
}

/// Pixels that are wider or higher than this are not of a video: their shape is ignored.
const MAX_PIXEL_ASPECT: f64 = 4.0;

/// Width of a pixel divided by its height.
fn pixel_aspect(ratio: ffmpeg::Rational) -> Option<f64> {
    let aspect = f64::from(ratio.numerator()) / f64::from(ratio.denominator());
    (1.0 / MAX_PIXEL_ASPECT..=MAX_PIXEL_ASPECT).contains(&aspect).then_some(aspect)
}

/// Reads the packets of the video stream of a file, in decoding order. The same file always gives the same
/// packets.
pub(super) struct Demuxer {
    input: Input,
    stream: usize,
    /// Ticks to add to the times of each packet; empty if none is repaired.
    shifts: Arc<[i64]>,
    /// Number of packets read.
    read: usize,
    /// The reason why reading ended before the end of the file.
    pub broken: Option<String>,
}

impl Demuxer {
    pub(super) fn open(
        source: &SourceFile,
        limits: &VideoLimits,
    ) -> Result<(Self, StreamHeader), VideoError> {
        disable_ffmpeg_log();
        let path = || source.path.clone();
        let malformed = |e: ffmpeg::Error| VideoError::Malformed {
            path: path(),
            container: source.container.into(),
            reason: e.to_string(),
        };
        let mut input = match open_input(source, limits) {
            Ok(input) => input,
            // FFmpeg's error for more than `max_streams` streams.
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
        discard_other_streams(&mut input, stream);
        Ok((Demuxer { input, stream, shifts: Arc::default(), read: 0, broken: None }, header))
    }

    /// Repairs the times of the packets: adds `shifts` ticks to each, from the first packet on.
    pub(super) fn with_shifts(self, shifts: &Arc<[i64]>) -> Self {
        Demuxer { shifts: shifts.clone(), ..self }
    }

    fn repair(&mut self, packet: &mut Packet) {
        if let Some(shift) = self.shifts.get(self.read).filter(|shift| **shift != 0) {
            packet.set_pts(packet.pts().map(|pts| pts.saturating_add(*shift)));
            packet.set_dts(packet.dts().map(|dts| dts.saturating_add(*shift)));
        }
        self.read += 1;
    }

    /// Returns the next packet of the video stream, or `None` at the end or where the file becomes
    /// unreadable.
    pub(super) fn next(&mut self) -> Option<Packet> {
        let mut errors = 0;
        loop {
            let mut packet = Packet::empty();
            match packet.read(&mut self.input) {
                Ok(()) if packet.stream() == self.stream => {
                    self.repair(&mut packet);
                    return Some(packet);
                }
                Ok(()) => {}
                Err(ffmpeg::Error::Eof) => return None,
                Err(e) => {
                    self.broken = Some(e.to_string());
                    errors += 1;
                    // All errors except invalid data come from reading the file and would repeat.
                    if e != ffmpeg::Error::InvalidData || errors > MAX_READ_ERRORS {
                        return None;
                    }
                }
            }
        }
    }

    /// Creates a decoder for the video stream.
    pub(super) fn decoder(&self, limits: &VideoLimits) -> Result<codec::decoder::Video, ffmpeg::Error> {
        let stream = self.input.stream(self.stream).ok_or(ffmpeg::Error::StreamNotFound)?;
        let mut context = codec::Context::from_parameters(stream.parameters())?;
        let codec = alpha_decoder(&stream).or_else(|| codec::decoder::find(stream.parameters().id()));
        let threads = limits.decoder_threads.clamp(1, 64);
        context.set_threading(codec::threading::Config {
            kind: codec::threading::Type::Frame,
            count: threads,
            ..Default::default()
        });
        let mut decoder = context.decoder();
        decoder.set_packet_time_base(stream.time_base());
        let mut options = decoder_options(limits);
        if stream.parameters().id() == codec::Id::MJPEG {
            // Without this, the decoder leaves the missing part of a cut picture grey and reports nothing.
            options.set("err_detect", "explode");
        }
        decoder.open_as_with(codec, options)?.video()
    }
}

/// Whether a packet is outside the edit list of the container: decoded, but not presented.
#[allow(unsafe_code)]
pub(super) fn is_hidden(packet: &Packet) -> bool {
    // SAFETY: `as_ptr` points to the AVPacket inside `packet`, which outlives this read.
    unsafe { (*packet.as_ptr()).flags & ffi::AV_PKT_FLAG_DISCARD != 0 }
}

/// Turns off FFmpeg's own log on stderr, once per process. Our error values carry the messages instead.
fn disable_ffmpeg_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // `init` only registers components; it cannot fail with these features.
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
fn open_input(source: &SourceFile, limits: &VideoLimits) -> Result<Input, ffmpeg::Error> {
    let reader = Reader::new(source.file.clone(), source.length);
    let mut io = StreamIo::from_read_seek_with_capacity(reader, READ_BYTES)?;
    let mut options = Dictionary::new();
    options.set("protocol_whitelist", "none");
    options.set("format_whitelist", FORMATS);
    options.set("codec_whitelist", DECODERS);
    options.set("max_streams", &limits.max_streams.saturating_add(1).min(i32::MAX as u32).to_string());
    let name = CString::new(source.container).map_err(|_| ffmpeg::Error::DemuxerNotFound)?;
    // SAFETY: we own the context until `wrap_with_custom_io` takes it together with the reader that it points
    // to. If `avformat_open_input` fails, it frees the context and leaves the reader to us. The dictionary is
    // disowned for the call, which can replace it, and owned again after it, so it is freed once.
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

/// Reads the stream parameters. FFmpeg decodes a few frames for this, so the decoder limits apply here too:
/// with the open function of the wrapper a small file could allocate pictures of any size.
#[allow(unsafe_code)]
fn find_stream_info(mut input: Input, limits: &VideoLimits) -> Result<Input, ffmpeg::Error> {
    // SAFETY: the call needs one dictionary per stream known now (it never reads more, even if it finds more
    // streams). Each is disowned for the call and owned again after it, so it is freed once.
    let code = unsafe {
        let streams = input.nb_streams() as usize;
        let mut options: Vec<_> = (0..streams).map(|_| decoder_options(limits).disown()).collect();
        let code = ffi::avformat_find_stream_info(input.as_mut_ptr(), options.as_mut_ptr());
        options.into_iter().for_each(|options| drop(Dictionary::own(options)));
        code
    };
    if code < 0 { Err(ffmpeg::Error::from(code)) } else { Ok(input) }
}

/// Returns the best video stream that is not a cover picture.
fn video_stream(input: &Input, source: &SourceFile) -> Result<(usize, StreamHeader), VideoError> {
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
    let CodecParameters { width, height, extra, transfer } = parameters(&stream);
    let alpha = has_alpha(&stream);
    let matrix = stream.side_data().find(|data| data.kind() == codec::packet::side_data::Type::DisplayMatrix);
    let base = stream.time_base();
    let header = StreamHeader {
        codec,
        // The key frames of the alpha lie elsewhere, so all packets are decoded in order.
        syntax: if alpha { Syntax::Opaque } else { Syntax::new(codec, &extra) },
        time_base: (i64::from(base.numerator()), i64::from(base.denominator().max(1))),
        declared_packets: declared_packets(&stream),
        width,
        height,
        orientation: matrix.map_or(Orientation::default(), |m| Orientation::from_matrix(m.data())),
        pixel_aspect: pixel_aspect(sample_aspect_ratio(&stream)),
        transfer,
        alpha_ignored: alpha && alpha_decoder(&stream).is_none(),
    };
    Ok((stream.index(), header))
}

/// Number of packets that the container declares; 0 if it declares none. An edit list can leave out stored packets:
/// the index, which the demuxer builds from both, does not hold them.
#[allow(unsafe_code)]
fn declared_packets(stream: &format::stream::Stream) -> usize {
    // SAFETY: the pointer is to a stream of an open input, which `stream` borrows; the call reads one counter.
    let indexed = unsafe { ffi::avformat_index_get_entries_count(stream.as_ptr()) };
    let (stored, indexed) = (stream.frames().max(0) as usize, indexed.max(0) as usize);
    if indexed == 0 { stored } else { stored.min(indexed) }
}

/// Whether a WebM has a second picture with the alpha in each packet.
fn has_alpha(stream: &format::stream::Stream) -> bool {
    stream.metadata().get("alpha_mode") == Some("1")
}

/// Returns the decoder that reads the alpha of a WebM, if FFmpeg was built with it. FFmpeg's own decoders of VP8
/// and VP9 do not.
fn alpha_decoder(stream: &format::stream::Stream) -> Option<ffmpeg::Codec> {
    let name = match stream.parameters().id() {
        codec::Id::VP8 if has_alpha(stream) => "libvpx",
        codec::Id::VP9 if has_alpha(stream) => "libvpx-vp9",
        _ => return None,
    };
    codec::decoder::find_by_name(name)
}

struct CodecParameters {
    width: u32,
    height: u32,
    extra: Vec<u8>,
    transfer: Option<&'static str>,
}

#[allow(unsafe_code)]
fn parameters(stream: &format::stream::Stream) -> CodecParameters {
    let parameters = stream.parameters();
    // SAFETY: the parameters live as long as `parameters`, and `extradata` has `extradata_size` bytes or is
    // null.
    unsafe {
        let p = &*parameters.as_ptr();
        let extra = if p.extradata.is_null() || p.extradata_size <= 0 {
            Vec::new()
        } else {
            std::slice::from_raw_parts(p.extradata, p.extradata_size as usize).to_vec()
        };
        let [width, height] = [p.width, p.height].map(|side| u32::try_from(side).unwrap_or(0));
        let transfer = color::TransferCharacteristic::from(p.color_trc).name();
        CodecParameters { width, height, extra, transfer }
    }
}

/// Shape of a pixel according to the container; 0 / 1 if it gives none.
#[allow(unsafe_code)]
fn sample_aspect_ratio(stream: &format::stream::Stream) -> ffmpeg::Rational {
    // SAFETY: `as_ptr` points to the AVStream that `stream` borrows.
    unsafe { (*stream.as_ptr()).sample_aspect_ratio.into() }
}

/// Makes the demuxer skip the packets of all other streams, if the container allows it.
#[allow(unsafe_code)]
fn discard_other_streams(input: &mut Input, keep: usize) {
    for mut stream in input.streams_mut() {
        if stream.index() != keep {
            // SAFETY: the pointer is to a stream of `input`, which is borrowed mutably, and avformat.h allows
            // the user of the library to set `discard`.
            unsafe { (*stream.as_mut_ptr()).discard = ffi::AVDiscard::AVDISCARD_ALL };
        }
    }
}
