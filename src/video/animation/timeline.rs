//! Times of an animation, from its headers. No picture is decoded.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use image::ImageFormat;

/// Delays of at most this many microseconds are read as `SHORT_DELAY_IS`. Old tools wrote them without meaning, and
/// every browser does the same.
const SHORT_DELAY: u64 = 10_000;
const SHORT_DELAY_IS: u64 = 100_000;

/// Complete frames of an animation.
#[derive(Debug, Default, PartialEq)]
pub(in crate::video) struct Timeline {
    /// Microseconds that each frame stays.
    pub delays: Vec<u64>,
    /// The file ends before the animation does.
    pub cut: bool,
    /// The decoder cannot decode these frames.
    pub unsupported: bool,
}

/// Reads the headers of a file of `length` bytes, up to `most` frames.
pub(in crate::video) fn timeline(
    format: ImageFormat,
    reader: impl Read + Seek,
    length: u64,
    most: u64,
) -> Timeline {
    let mut walk =
        Walk { reader: BufReader::new(reader), at: 0, length, timeline: Timeline::default(), most };
    let walked = match format {
        ImageFormat::Gif => walk.gif(),
        ImageFormat::Png => walk.png(),
        ImageFormat::WebP => walk.webp(),
        _ => Ok(()),
    };
    walk.timeline.cut |= walked.is_err();
    walk.timeline
}

struct Walk<R> {
    reader: BufReader<R>,
    at: u64,
    length: u64,
    timeline: Timeline,
    most: u64,
}

impl<R: Read + Seek> Walk<R> {
    fn read<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    /// Moves to a position, which must lie in the file.
    fn go_to(&mut self, at: u64) -> io::Result<()> {
        if at > self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.reader.seek(SeekFrom::Start(at))?;
        self.at = at;
        Ok(())
    }

    /// Appends a frame. Returns false if there are enough.
    fn push(&mut self, delay: u64) -> bool {
        self.timeline.delays.push(if delay <= SHORT_DELAY { SHORT_DELAY_IS } else { delay });
        self.timeline.delays.len() as u64 <= self.most
    }

    fn gif(&mut self) -> io::Result<()> {
        let header: [u8; 13] = self.read()?;
        self.go_to(self.at + colour_table(header[10]))?;
        let mut delay = 0;
        // Some files have no end mark.
        while self.at < self.length {
            match self.read()? {
                [0x21] => {
                    if self.read()? == [0xf9] {
                        let [_, _, low, high, _] = self.read()?;
                        delay = u64::from(u16::from_le_bytes([low, high])) * 10_000;
                    }
                    self.skip_sub_blocks()?;
                }
                [0x2c] => {
                    let descriptor: [u8; 9] = self.read()?;
                    // One byte more: the code size of the pixels.
                    self.go_to(self.at + colour_table(descriptor[8]) + 1)?;
                    self.skip_sub_blocks()?;
                    if !self.push(std::mem::take(&mut delay)) {
                        return Ok(());
                    }
                }
                // The end mark, or bytes after which every viewer stops.
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    fn skip_sub_blocks(&mut self) -> io::Result<()> {
        loop {
            let [length] = self.read()?;
            if length == 0 {
                return Ok(());
            }
            // Relative, so that the buffer stays.
            self.reader.seek_relative(i64::from(length))?;
            self.at += u64::from(length);
        }
    }

    fn png(&mut self) -> io::Result<()> {
        self.go_to(8)?;
        // A picture before the first control chunk is no frame.
        let (mut declared, mut delay, mut has_data) = (None, None, false);
        loop {
            let head: [u8; 8] = self.read()?;
            let (body, name) = (self.at, &head[4..]);
            let data = matches!(name, b"IDAT" | b"fdAT");
            if data && declared.is_none() {
                return Ok(());
            }
            // The data of a frame end at the next chunk of another kind.
            if has_data && !data && delay.take().is_some_and(|delay| !self.push(delay)) {
                return Ok(());
            }
            has_data = data;
            match name {
                b"IHDR" => self.timeline.unsupported = self.read::<9>()?[8] == 16,
                b"acTL" => declared = Some(be32(&self.read::<4>()?) as usize),
                b"fcTL" => {
                    let control: [u8; 24] = self.read()?;
                    let [numerator, denominator] =
                        [20, 22].map(|i| u64::from(u16::from_be_bytes([control[i], control[i + 1]])));
                    delay = Some(numerator * 1_000_000 / if denominator == 0 { 100 } else { denominator });
                }
                _ => {}
            }
            if name == b"IEND" || declared == Some(self.timeline.delays.len()) {
                return Ok(());
            }
            self.go_to(body + u64::from(be32(&head)) + 4)?;
        }
    }

    fn webp(&mut self) -> io::Result<()> {
        let riff: [u8; 12] = self.read()?;
        self.timeline.cut = 8 + u64::from(le32(&riff[4..])) > self.length;
        while self.at + 8 <= self.length {
            let head: [u8; 8] = self.read()?;
            let (body, size) = (self.at, u64::from(le32(&head[4..])));
            let delay = match &head[..4] {
                b"VP8 " | b"VP8L" => return Ok(()),
                b"ANMF" => {
                    let frame: [u8; 15] = self.read()?;
                    Some(u64::from(le32(&[frame[12], frame[13], frame[14], 0])) * 1000)
                }
                _ => None,
            };
            self.go_to(body + size)?;
            if delay.is_some_and(|delay| !self.push(delay)) {
                return Ok(());
            }
            // Chunks have even lengths; the last byte may be absent.
            self.go_to((body + size + size % 2).min(self.length))?;
        }
        Ok(())
    }
}

/// Bytes of a colour table by the flags before it.
fn colour_table(flags: u8) -> u64 {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn le32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
