//! Detection of the file format from the first bytes. The file name does not matter.
//!
//! Only formats on this list reach a parser. A playlist, a manifest or a session description that was renamed
//! to `.mp4` is therefore refused here by its content, before FFmpeg can follow the names inside it.

mod transport;

use image::ImageFormat;

/// Number of bytes that `sniff` reads; fewer if the file has fewer.
pub(super) const HEAD_BYTES: usize = 4096;

/// Detected kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    /// A video, with FFmpeg's name of the demuxer.
    Video(&'static str),
    Image(ImageFormat),
    /// A known format that is not allowed; a noun phrase.
    Refused(&'static str),
    /// An unknown format; a clause about the content.
    Unknown(&'static str),
}

/// Length in bytes that the header of a file declares, for containers that declare one, or that its packets need.
/// A shorter file is truncated. `length` is the length of the file.
pub(super) fn declared_length(head: &[u8], length: u64) -> Option<u64> {
    if let FileKind::Video("mpegts") = sniff(head) {
        return transport::whole_packets(head, length);
    }
    if head.starts_with(b"RIFF") {
        let size = head.get(4..8)?;
        return Some(8 + u64::from(u32::from_le_bytes(size.try_into().ok()?)));
    }
    let (header, segment) = (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67");
    let rest = head.strip_prefix(header)?;
    let (length, rest) = ebml_size(rest)?;
    let rest = rest.get(usize::try_from(length?).ok()?..)?.strip_prefix(segment)?;
    let (size, rest) = ebml_size(rest)?;
    // A live recording has no size and can end anywhere.
    Some((head.len() - rest.len()) as u64 + size?)
}

/// Reads an EBML size and returns it with the bytes after it. The inner `None` is the size "unknown".
fn ebml_size(bytes: &[u8]) -> Option<(Option<u64>, &[u8])> {
    let length = bytes.first()?.leading_zeros() as usize + 1;
    if length > 8 {
        return None;
    }
    let (size, rest) = (bytes.get(..length)?, bytes.get(length..)?);
    let mask = (1u64 << (7 * length)) - 1;
    let value = size.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)) & mask;
    Some(((value != mask).then_some(value), rest))
}

/// Detects the format of a file from its first bytes.
pub(super) fn sniff(head: &[u8]) -> FileKind {
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    if at(4, b"ftyp") {
        return iso_brand(head);
    }
    if ["moov", "mdat", "free", "skip", "wide", "pnot", "styp"].iter().any(|name| at(4, name.as_bytes())) {
        return FileKind::Video("mov");
    }
    if at(0, b"RIFF") {
        return match head.get(8..12) {
            Some(b"AVI ") => FileKind::Video("avi"),
            Some(b"WEBP") => FileKind::Image(ImageFormat::WebP),
            Some(b"WAVE") => FileKind::Refused("a WAVE sound file"),
            _ => FileKind::Refused("a RIFF file that is neither AVI nor WebP"),
        };
    }
    if is_bitmap(head) {
        return FileKind::Image(ImageFormat::Bmp);
    }
    if is_pnm(head) {
        return FileKind::Refused("a PNM image (convert it to PNG)");
    }
    match MAGIC.iter().find(|(magic, _)| head.starts_with(magic)) {
        Some((_, kind)) => *kind,
        None if transport::is_transport_stream(head) => FileKind::Video("mpegts"),
        None => text(head),
    }
}

/// Whether this is a Windows or OS/2 bitmap. Its magic has two letters only, so the header length that follows
/// is checked too.
fn is_bitmap(head: &[u8]) -> bool {
    head.starts_with(b"BM")
        && matches!(head.get(14..18), Some([12 | 16 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0]))
}

/// Whether this is a portable bitmap, greymap, pixmap or anymap: a letter, a digit, and a header in ASCII.
fn is_pnm(head: &[u8]) -> bool {
    matches!(head, [b'P', b'1'..=b'6', b' ' | b'\n' | b'\t' | b'\r', b'0'..=b'9' | b'#', ..])
        || head.starts_with(b"P7\nWIDTH ")
}

/// The first match counts.
const MAGIC: [(&[u8], FileKind); 37] = [
    (b"\x1a\x45\xdf\xa3", FileKind::Video("matroska")),
    (b"\x89PNG\r\n\x1a\n", FileKind::Image(ImageFormat::Png)),
    (b"\xff\xd8\xff", FileKind::Image(ImageFormat::Jpeg)),
    (b"GIF87a", FileKind::Image(ImageFormat::Gif)),
    (b"GIF89a", FileKind::Image(ImageFormat::Gif)),
    (b"II*\0\x10\0\0\0CR", FileKind::Refused("a camera raw image (convert it to JPEG or PNG)")),
    (b"II*\0", FileKind::Image(ImageFormat::Tiff)),
    (b"MM\0*", FileKind::Image(ImageFormat::Tiff)),
    (b"II+\0", FileKind::Image(ImageFormat::Tiff)),
    (b"MM\0+", FileKind::Image(ImageFormat::Tiff)),
    (b"\0\0\x01\0\x01\0", FileKind::Refused("a Windows icon (convert it to PNG)")),
    (b"qoif", FileKind::Refused("a QOI image (convert it to PNG)")),
    (b"8BPS", FileKind::Refused("a Photoshop image (convert it to PNG)")),
    (b"gimp xcf", FileKind::Refused("a GIMP image (convert it to PNG)")),
    (b"DDS ", FileKind::Refused("a DDS texture (convert it to PNG)")),
    (b"\x76\x2f\x31\x01", FileKind::Refused("an OpenEXR image (convert it to PNG)")),
    (b"#?RADIANCE", FileKind::Refused("a Radiance HDR image (convert it to PNG)")),
    (b"\0\0\0\x0cJXL ", FileKind::Refused("a JPEG XL image (convert it to JPEG or PNG)")),
    (b"\xff\x0a", FileKind::Refused("a JPEG XL image (convert it to JPEG or PNG)")),
    (b"\0\0\0\x0cjP  ", FileKind::Refused("a JPEG 2000 image (convert it to JPEG or PNG)")),
    (b"\xff\x4f\xff\x51", FileKind::Refused("a JPEG 2000 image (convert it to JPEG or PNG)")),
    (b"YUV4MPEG2 ", FileKind::Refused("a YUV4MPEG2 video (convert it to MP4 or WebM)")),
    (b"\x06\x0e\x2b\x34", FileKind::Refused("an MXF video (convert it to MP4 or WebM)")),
    (b".RMF", FileKind::Refused("a RealMedia file (convert it to MP4 or WebM)")),
    (b"RF64", FileKind::Refused("a WAVE sound file")),
    (b"FLV\x01", FileKind::Video("flv")),
    (b"OggS", FileKind::Video("ogg")),
    (b"fLaC", FileKind::Refused("a FLAC sound file")),
    (b"ID3", FileKind::Refused("an MP3 sound file")),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", FileKind::Video("asf")),
    (b"\x00\x00\x01\xba", FileKind::Video("mpeg")),
    (b"\x00\x00\x01", FileKind::Refused("a raw video stream without a container")),
    (b"\x00\x00\x00\x01", FileKind::Refused("a raw video stream without a container")),
    (b"DKIF", FileKind::Refused("an IVF file")),
    (b"%PDF", FileKind::Refused("a PDF document")),
    (b"PK\x03\x04", FileKind::Refused("a ZIP archive")),
    (b"\x1f\x8b", FileKind::Refused("a gzip file")),
];

/// Distinguishes videos from still images with the same box format by the major brand.
fn iso_brand(head: &[u8]) -> FileKind {
    match head.get(8..12) {
        Some(b"avif") => FileKind::Image(ImageFormat::Avif),
        Some(b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1") => {
            FileKind::Refused("a HEIF image (convert it to JPEG or PNG)")
        }
        Some(b"M4A " | b"M4B ") => FileKind::Refused("an M4A sound file"),
        _ => FileKind::Video("mov"),
    }
}

/// Detects text formats, which are all refused.
fn text(head: &[u8]) -> FileKind {
    let printable = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..);
    let whole = match std::str::from_utf8(head) {
        Ok(_) => true,
        // The read bytes can end within a character.
        Err(e) => e.error_len().is_none(),
    };
    if !(whole && head.iter().all(printable)) {
        return FileKind::Unknown("its first bytes are of no known format");
    }
    let lower =
        String::from_utf8_lossy(head).trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    let known = [
        ("#extm3u", "an HLS playlist"),
        ("ffconcat", "an ffconcat list of other files"),
        ("v=0", "an SDP session description"),
        ("[playlist]", "a PLS playlist"),
        ("[internetshortcut]", "an internet shortcut"),
        ("<!doctype html", "an HTML page"),
        ("<html", "an HTML page"),
        ("<svg", "an SVG drawing (convert it to PNG)"),
    ];
    if let Some((_, what)) = known.iter().find(|(start, _)| lower.starts_with(start)) {
        return FileKind::Refused(what);
    }
    match lower {
        text if text.contains("<mpd") => FileKind::Refused("a DASH manifest"),
        text if text.contains("<smoothstreamingmedia") => FileKind::Refused("a Smooth Streaming manifest"),
        text if text.starts_with("<?xml") => FileKind::Unknown("it is an XML text"),
        _ => FileKind::Unknown("it is a text file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &[u8], expected: FileKind) {
        assert_eq!(sniff(head), expected, "{:?}", String::from_utf8_lossy(&head[..head.len().min(24)]));
    }

    #[test]
    fn detects_containers() {
        check(b"\0\0\0\x20ftypisom\0\0\x02\0", FileKind::Video("mov"));
        check(b"\0\0\0\x08wide\0\0\0\0mdat", FileKind::Video("mov"));
        check(b"\x1a\x45\xdf\xa3\x9fB", FileKind::Video("matroska"));
        check(b"RIFF\0\0\0\0AVI LIST", FileKind::Video("avi"));
        let mut ts = vec![0x10u8; 188 * 3];
        (0..3).for_each(|i| ts[i * 188] = b'G');
        check(&ts, FileKind::Video("mpegts"));
        ts[188] = 0;
        check(&ts, FileKind::Unknown("its first bytes are of no known format"));
    }

    #[test]
    fn detects_images() {
        check(b"RIFF\0\0\0\0WEBPVP8 ", FileKind::Image(ImageFormat::WebP));
        check(b"\xff\xd8\xff\xe0\0\x10JFIF", FileKind::Image(ImageFormat::Jpeg));
        check(b"\0\0\0\x20ftypavif", FileKind::Image(ImageFormat::Avif));
        check(b"BM\x36\xb4\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", FileKind::Image(ImageFormat::Bmp));
        check(b"BM is a text", FileKind::Unknown("it is a text file"));
        check(b"II*\0\x08\0\0\0", FileKind::Image(ImageFormat::Tiff));
        check(
            b"II*\0\x10\0\0\0CR\x02\0",
            FileKind::Refused("a camera raw image (convert it to JPEG or PNG)"),
        );
        check(b"P6\n640 480\n255\n\0\x07", FileKind::Refused("a PNM image (convert it to PNG)"));
        check(b"P6 is my room", FileKind::Unknown("it is a text file"));
        check(b"\0\0\x01\0\x01\0  ", FileKind::Refused("a Windows icon (convert it to PNG)"));
        check(b"\0\0\0\x18ftypheic", FileKind::Refused("a HEIF image (convert it to JPEG or PNG)"));
    }

    #[test]
    fn reads_declared_lengths() {
        let of = |head: &[u8]| declared_length(head, 20_000);
        assert_eq!(of(b"RIFF\x10\x27\0\0AVI "), Some(10_008));
        let mkv = b"\x1a\x45\xdf\xa3\x82xx\x18\x53\x80\x67\x10\0\x01\x02rest";
        assert_eq!(of(mkv), Some(15 + 0x102));
        let live = b"\x1a\x45\xdf\xa3\x82xx\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff";
        assert_eq!(of(live), None);
        assert_eq!(of(b"\x1a\x45\xdf\xa3\0"), None);
        assert_eq!(of(b"\0\0\0\x20ftypisom"), None);
    }

    #[test]
    fn refuses_texts() {
        check(b"#EXTM3U\n#EXT-X-VERSION:3\n", FileKind::Refused("an HLS playlist"));
        check(b"\xef\xbb\xbf\n #extm3u", FileKind::Refused("an HLS playlist"));
        check(b"ffconcat version 1.0\nfile secret\n", FileKind::Refused("an ffconcat list of other files"));
        check(b"<?xml version=\"1.0\"?>\n<MPD xmlns=", FileKind::Refused("a DASH manifest"));
        check(b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", FileKind::Refused("an SDP session description"));
        check(b"dear diary", FileKind::Unknown("it is a text file"));
        check(
            "a text cut within \u{e9}".as_bytes().split_last().unwrap().1,
            FileKind::Unknown("it is a text file"),
        );
    }
}
