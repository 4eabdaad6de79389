//! Messages from the child to the parent. The parent does not trust them: every length is checked before it is used.

use std::io::{self, Read, Write};

use flamingo::video::{Frame, Moments, Summary, VideoInfo};
use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::sandbox::Confinement;

/// Largest header in bytes. A text message has a few hundred; a summary names a few warnings.
const HEADER_LIMIT: u32 = 1 << 20;

#[derive(Debug)]
pub(super) enum Message {
    /// Always first, before the file is read.
    Ready(Confinement),
    /// Always second, unless the file is refused.
    Info(VideoInfo),
    Frame(Frame),
    /// Always last.
    End(Summary),
    /// Ends the stream with an error.
    Failed {
        code: String,
        message: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Header {
    Ready(Confinement),
    Info(VideoInfo),
    Frame { pts: f64, moments: Moments, width: u32, height: u32 },
    End(Summary),
    Failed { code: String, message: String },
}

/// Writes one message: the length of its header (u32, little endian), the header as JSON, and for a frame its pixels
/// (RGB, row by row).
pub(super) fn write(output: &mut impl Write, message: Message) -> io::Result<()> {
    let (header, pixels) = match message {
        Message::Ready(confinement) => (Header::Ready(confinement), None),
        Message::Info(info) => (Header::Info(info), None),
        Message::End(summary) => (Header::End(summary), None),
        Message::Failed { code, message } => (Header::Failed { code, message }, None),
        Message::Frame(Frame { pts, moments, image }) => {
            let (width, height) = image.dimensions();
            (Header::Frame { pts, moments, width, height }, Some(image))
        }
    };
    let header = serde_json::to_vec(&header)?;
    output.write_all(&(header.len() as u32).to_le_bytes())?;
    output.write_all(&header)?;
    if let Some(pixels) = pixels {
        output.write_all(pixels.as_raw())?;
    }
    output.flush()
}

/// Reads one message.
///
/// # Errors
/// The stream ends, or the message is invalid or has more than `max_pixels` pixels.
pub(super) fn read(input: &mut impl Read, max_pixels: u64) -> io::Result<Message> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > HEADER_LIMIT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut header = vec![0; length as usize];
    input.read_exact(&mut header)?;
    Ok(match serde_json::from_slice(&header)? {
        Header::Ready(confinement) => Message::Ready(confinement),
        Header::Info(info) if is_time(info.duration) => Message::Info(info),
        Header::End(summary) => Message::End(summary),
        Header::Failed { code, message } if is_code(&code) => Message::Failed { code, message },
        Header::Frame { pts, moments, width, height } => {
            let pixels = u64::from(width) * u64::from(height);
            if pixels == 0 || pixels > max_pixels || !is_time(pts) || !moments.is_valid() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut pixels = vec![0; width as usize * height as usize * 3];
            input.read_exact(&mut pixels)?;
            let image = RgbImage::from_raw(width, height, pixels).ok_or(io::ErrorKind::InvalidData)?;
            Message::Frame(Frame { pts, moments, image })
        }
        Header::Info(_) | Header::Failed { .. } => return Err(io::ErrorKind::InvalidData.into()),
    })
}

/// Whether a code is safe to use as a metric label, a header and a column.
fn is_code(code: &str) -> bool {
    (1..=40).contains(&code.len())
        && code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Whether seconds are plausible: at most ten years.
fn is_time(seconds: f64) -> bool {
    (0.0..=3.2e8).contains(&seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_round_trips() {
        let image = RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8, y as u8, 7]));
        let mut sent = Vec::new();
        write(&mut sent, Message::Frame(Frame::at(0.1 + 0.2, image.clone()))).unwrap();
        let Message::Frame(frame) = read(&mut &sent[..], 15).unwrap() else { panic!("not a frame") };
        assert_eq!((frame.pts, frame.image), (0.1 + 0.2, image));
        assert!(read(&mut &sent[..], 14).is_err(), "more pixels than are allowed");
        assert!(read(&mut &sent[..sent.len() - 1], 15).is_err(), "cut short");
    }

    #[test]
    fn rejects_invalid_frames() {
        let empty = Frame::at(0.0, RgbImage::new(0, 3));
        let nan_time = Frame::at(f64::NAN, RgbImage::new(1, 1));
        let negative_time = Frame { pts: -1.0, ..Frame::at(0.0, RgbImage::new(1, 1)) };
        let negative_moment = Frame { moments: Moments::at(-1.0), ..Frame::at(0.0, RgbImage::new(1, 1)) };
        for frame in [empty, nan_time, negative_time, negative_moment] {
            let mut sent = Vec::new();
            write(&mut sent, Message::Frame(frame)).unwrap();
            assert!(read(&mut &sent[..], 15).is_err());
        }
    }

    #[test]
    fn rejects_codes_that_are_not_plain() {
        for (code, good) in
            [("no_frames", true), ("", false), ("a\0b", false), ("A", false), (&"x".repeat(41), false)]
        {
            let mut sent = Vec::new();
            write(&mut sent, Message::Failed { code: code.into(), message: "why".into() }).unwrap();
            assert_eq!(read(&mut &sent[..], 15).is_ok(), good, "{code:?}");
        }
    }

    #[test]
    fn rejects_invalid_lengths() {
        for bytes in [&b"\xff\xff\xff\xff{}"[..], b"\x02\0\0\0{}", b"\x05\0\0\0{\"a\""] {
            assert!(read(&mut &bytes[..], 15).is_err(), "{bytes:?}");
        }
    }
}
