//! What a file is by its first bytes, whatever its name says.
//!
//! Only formats on this list reach a parser, so a playlist, a manifest or a session description that was renamed to
//! `.mp4` is refused here, by what it is, before FFmpeg could follow the names inside it.

/// How many bytes `sniff` wants to see; fewer if the file has fewer.
pub(super) const HEAD: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// FFmpeg's name of the demuxer.
    Video(&'static str),
    Image(image::ImageFormat),
    /// Known and not allowed; a noun phrase.
    Refused(&'static str),
    /// Not known; a noun phrase.
    Unknown(&'static str),
}

/// How long a file's own header says it is, for containers that say so: a shorter file was cut off.
pub(super) fn promised_length(head: &[u8]) -> Option<u64> {
    if head.starts_with(b"RIFF") {
        let size = head.get(4..8)?;
        return Some(8 + u64::from(u32::from_le_bytes(size.try_into().ok()?)));
    }
    let (header, segment) = (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67");
    let rest = head.strip_prefix(header)?;
    let (length, rest) = ebml_size(rest)?;
    let rest = rest.get(usize::try_from(length?).ok()?..)?.strip_prefix(segment)?;
    let (size, rest) = ebml_size(rest)?;
    // No size: a live recording, which may end anywhere.
    Some((head.len() - rest.len()) as u64 + size?)
}

/// An EBML size and what follows it; the inner `None` is the size "unknown".
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

const MPEGTS: &str = "mpegts";
const SYNC: u8 = 0x47;

pub(super) fn sniff(head: &[u8]) -> Kind {
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let packets = |size: usize, offset: usize| {
        let mut bytes = head.iter().skip(offset).step_by(size);
        head.len() > offset + size && bytes.all(|byte| *byte == SYNC)
    };
    if at(4, b"ftyp") {
        return iso_brand(head);
    }
    if ["moov", "mdat", "free", "skip", "wide", "pnot", "styp"].iter().any(|name| at(4, name.as_bytes())) {
        return Kind::Video("mov");
    }
    if at(0, b"RIFF") {
        return match head.get(8..12) {
            Some(b"AVI ") => Kind::Video("avi"),
            Some(b"WEBP") => Kind::Image(image::ImageFormat::WebP),
            Some(b"WAVE") => Kind::Refused("a WAVE sound file"),
            _ => Kind::Refused("a RIFF file that is neither AVI nor WebP"),
        };
    }
    if packets(188, 0) || packets(192, 4) {
        return Kind::Video(MPEGTS);
    }
    match MAGIC.iter().find(|(magic, _)| head.starts_with(magic)) {
        Some((_, kind)) => *kind,
        None => text(head),
    }
}

const MAGIC: [(&[u8], Kind); 17] = [
    (b"\x1a\x45\xdf\xa3", Kind::Video("matroska")),
    (b"\x89PNG\r\n\x1a\n", Kind::Image(image::ImageFormat::Png)),
    (b"\xff\xd8\xff", Kind::Image(image::ImageFormat::Jpeg)),
    (b"GIF87a", Kind::Image(image::ImageFormat::Gif)),
    (b"GIF89a", Kind::Image(image::ImageFormat::Gif)),
    (b"FLV\x01", Kind::Refused("a Flash video")),
    (b"OggS", Kind::Refused("an Ogg file")),
    (b"fLaC", Kind::Refused("a FLAC sound file")),
    (b"ID3", Kind::Refused("an MP3 sound file")),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Kind::Refused("an ASF/WMV file")),
    (b"\x00\x00\x01\xba", Kind::Refused("an MPEG program stream")),
    (b"\x00\x00\x01", Kind::Refused("a raw video stream without a container")),
    (b"\x00\x00\x00\x01", Kind::Refused("a raw video stream without a container")),
    (b"DKIF", Kind::Refused("an IVF file")),
    (b"%PDF", Kind::Refused("a PDF document")),
    (b"PK\x03\x04", Kind::Refused("a ZIP archive")),
    (b"\x1f\x8b", Kind::Refused("a gzip file")),
];

/// The major brand tells videos from the still images that share the box format.
fn iso_brand(head: &[u8]) -> Kind {
    match head.get(8..12) {
        Some(b"avif" | b"avis") => Kind::Refused("an AVIF image"),
        Some(b"heic" | b"heix" | b"hevc" | b"hevx" | b"mif1" | b"msf1") => Kind::Refused("a HEIF image"),
        Some(b"M4A " | b"M4B ") => Kind::Refused("an M4A sound file"),
        _ => Kind::Video("mov"),
    }
}

fn text(head: &[u8]) -> Kind {
    let printable = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..);
    let whole = match std::str::from_utf8(head) {
        Ok(_) => true,
        // The head may end within a character.
        Err(e) => e.error_len().is_none(),
    };
    if !(whole && head.iter().all(printable)) {
        return Kind::Unknown("its first bytes are of no known format");
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
        ("<svg", "an SVG drawing"),
    ];
    if let Some((_, what)) = known.iter().find(|(start, _)| lower.starts_with(start)) {
        return Kind::Refused(what);
    }
    match lower {
        text if text.contains("<mpd") => Kind::Refused("a DASH manifest"),
        text if text.contains("<smoothstreamingmedia") => Kind::Refused("a Smooth Streaming manifest"),
        text if text.starts_with("<?xml") => Kind::Unknown("it is an XML text"),
        _ => Kind::Unknown("it is a plain text"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &[u8], expected: Kind) {
        assert_eq!(sniff(head), expected, "{:?}", String::from_utf8_lossy(&head[..head.len().min(24)]));
    }

    #[test]
    fn containers() {
        check(b"\0\0\0\x20ftypisom\0\0\x02\0", Kind::Video("mov"));
        check(b"\0\0\0\x08wide\0\0\0\0mdat", Kind::Video("mov"));
        check(b"\x1a\x45\xdf\xa3\x9fB", Kind::Video("matroska"));
        check(b"RIFF\0\0\0\0AVI LIST", Kind::Video("avi"));
        let mut ts = vec![0u8; 188 * 3];
        (0..3).for_each(|i| ts[i * 188] = SYNC);
        check(&ts, Kind::Video(MPEGTS));
        ts[188] = 0;
        check(&ts, Kind::Unknown("its first bytes are of no known format"));
    }

    #[test]
    fn images() {
        check(b"RIFF\0\0\0\0WEBPVP8 ", Kind::Image(image::ImageFormat::WebP));
        check(b"\xff\xd8\xff\xe0\0\x10JFIF", Kind::Image(image::ImageFormat::Jpeg));
        check(b"\0\0\0\x20ftypavif", Kind::Refused("an AVIF image"));
    }

    #[test]
    fn promised_lengths() {
        assert_eq!(promised_length(b"RIFF\x10\x27\0\0AVI "), Some(10_008));
        let mkv = b"\x1a\x45\xdf\xa3\x82xx\x18\x53\x80\x67\x10\0\x01\x02rest";
        assert_eq!(promised_length(mkv), Some(15 + 0x102));
        let live = b"\x1a\x45\xdf\xa3\x82xx\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff";
        assert_eq!(promised_length(live), None);
        assert_eq!(promised_length(b"\x1a\x45\xdf\xa3\0"), None);
        assert_eq!(promised_length(b"\0\0\0\x20ftypisom"), None);
    }

    #[test]
    fn texts() {
        check(b"#EXTM3U\n#EXT-X-VERSION:3\n", Kind::Refused("an HLS playlist"));
        check(b"\xef\xbb\xbf\n #extm3u", Kind::Refused("an HLS playlist"));
        check(b"ffconcat version 1.0\nfile secret\n", Kind::Refused("an ffconcat list of other files"));
        check(b"<?xml version=\"1.0\"?>\n<MPD xmlns=", Kind::Refused("a DASH manifest"));
        check(b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", Kind::Refused("an SDP session description"));
        check(b"dear diary", Kind::Unknown("it is a plain text"));
        check(
            "a text cut within \u{e9}".as_bytes().split_last().unwrap().1,
            Kind::Unknown("it is a plain text"),
        );
    }
}
