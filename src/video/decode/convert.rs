//! Decoded pictures -> RGB as a player shows it: one field of an interlaced picture, HDR in the colours of an SDR
//! screen, transparent parts on white, square pixels, and rotated.

use std::ffi::c_int;

use ffmpeg::format::Pixel;
use ffmpeg::software::scaling;
use ffmpeg::util::color;
use ffmpeg::{ffi, frame};
use ffmpeg_next as ffmpeg;
use image::{DynamicImage, RgbImage, RgbaImage};

use super::deinterlace::deinterlaced;
use super::open::StreamHeader;
use crate::video::deep::DeepPicture;
use crate::video::tone::{Primaries, ToneMap, Transfer};
use crate::video::yuv::{self, ColourMatrix, Picture, Plane};
use crate::video::{alpha, stretch};

/// Converts pictures to RGB. It keeps the scaler and the tables of the last picture that needed them.
pub(super) struct Converter {
    header: StreamHeader,
    scaler: Option<(Key, scaling::Context)>,
    tone_map: Option<ToneMap>,
    /// Pictures in which the decoder had to invent parts.
    pub damaged: usize,
}

// SAFETY: an SwsContext is not bound to a thread. It is used through `&mut self` only, and all other fields
// are plain data.
#[allow(unsafe_code)]
unsafe impl Send for Converter {}

#[derive(Clone, Copy, PartialEq)]
struct Key {
    from: Pixel,
    to: Pixel,
    width: u32,
    height: u32,
    space: c_int,
    full_range: bool,
}

impl Converter {
    pub(super) fn new(header: &StreamHeader) -> Self {
        Converter { header: header.clone(), scaler: None, tone_map: None, damaged: 0 }
    }

    /// Returns the size of a picture as it is shown, before rotation.
    pub(super) fn shown_size(&self, picture: &frame::Video) -> (u32, u32) {
        self.header.shown_size(picture)
    }

    pub(super) fn rgb(&mut self, picture: &frame::Video) -> Result<RgbImage, String> {
        let (width, height) = (picture.width(), picture.height());
        if width == 0 || height == 0 {
            return Err("the picture has no pixels".into());
        }
        self.damaged += usize::from(picture.is_corrupt() || picture.has_decode_errors());
        let (shown_width, _) = self.shown_size(picture);
        let progressive = deinterlaced(picture);
        let picture = progressive.as_ref().unwrap_or(picture);
        let image = match (hdr_transfer(picture), halved(picture.format())) {
            (Some(transfer), _) => self.tone_mapped(picture, transfer)?,
            (None, Some((halved, jpeg))) => rgb_image(picture, planar_rgb(picture, halved, jpeg))?,
            (None, None) if has_alpha(picture.format()) => self.on_white(picture)?,
            (None, None) => rgb_image(picture, self.scale(picture, Pixel::RGB24, 3)?)?,
        };
        Ok(self.header.orientation.apply(stretch::to_width(image, shown_width)))
    }

    /// Converts an HDR picture to the colours of BT.709.
    fn tone_mapped(&mut self, picture: &frame::Video, transfer: Transfer) -> Result<RgbImage, String> {
        let primaries = primaries(picture);
        let tone_map = match self.tone_map.take() {
            Some(last) if last.is_for(transfer, primaries) => last,
            _ => ToneMap::new(transfer, primaries),
        };
        let mut rgb = Vec::with_capacity(picture.width() as usize * picture.height() as usize * 3);
        match deep_picture(picture) {
            Some(deep) => deep.for_each(|signal| rgb.extend(tone_map.pixel(signal))),
            None => {
                let pixels = self.scale(picture, Pixel::RGB48LE, 6)?;
                let signal = |bytes: &[u8]| [0, 2, 4].map(|i| u16::from_le_bytes([bytes[i], bytes[i + 1]]));
                rgb.extend(pixels.chunks_exact(6).flat_map(|bytes| tone_map.pixel(signal(bytes))));
            }
        }
        self.tone_map = Some(tone_map);
        rgb_image(picture, rgb)
    }

    fn on_white(&mut self, picture: &frame::Video) -> Result<RgbImage, String> {
        let rgba = self.scale(picture, Pixel::RGBA, 4)?;
        let rgba = RgbaImage::from_raw(picture.width(), picture.height(), rgba).ok_or(OTHER_SIZE)?;
        Ok(alpha::on_white(DynamicImage::ImageRgba8(rgba)))
    }

    /// Converts pixel formats that have more than 8 bits, alpha, or other layouts than planes with swscale.
    fn scale(&mut self, picture: &frame::Video, to: Pixel, pixel_bytes: usize) -> Result<Vec<u8>, String> {
        let key = Key {
            from: picture.format(),
            to,
            width: picture.width(),
            height: picture.height(),
            space: scaler_space(matrix(picture)),
            full_range: picture.color_range() == color::Range::JPEG,
        };
        if self.scaler.as_ref().is_none_or(|(last, _)| *last != key) {
            self.scaler = Some((key, scaler(key).map_err(|e| e.to_string())?));
        }
        let Some((_, scaler)) = &mut self.scaler else { return Err(ffmpeg::Error::Bug.to_string()) };
        let mut scaled = frame::Video::empty();
        scaler.run(picture, &mut scaled).map_err(|e| e.to_string())?;
        let row = picture.width() as usize * pixel_bytes;
        let rows = scaled.data(0).chunks(scaled.stride(0)).take(picture.height() as usize);
        Ok(rows.flat_map(|padded| &padded[..row]).copied().collect())
    }
}

const OTHER_SIZE: &str = "the picture has another size than its header gives";

fn rgb_image(picture: &frame::Video, rgb: Vec<u8>) -> Result<RgbImage, String> {
    RgbImage::from_raw(picture.width(), picture.height(), rgb).ok_or_else(|| OTHER_SIZE.into())
}

/// Converts an 8-bit planar picture.
fn planar_rgb(picture: &frame::Video, halved: (bool, bool), jpeg: bool) -> Vec<u8> {
    let plane = |i| Plane { data: picture.data(i), stride: picture.stride(i) };
    yuv::to_rgb(&Picture {
        width: picture.width() as usize,
        height: picture.height() as usize,
        planes: [plane(0), plane(1), plane(2)],
        halved,
        matrix: matrix(picture),
        full_range: jpeg || picture.color_range() == color::Range::JPEG,
    })
}

/// Returns the planes of a picture of any depth, if it is in planar YCbCr.
fn deep_picture(picture: &frame::Video) -> Option<DeepPicture<'_>> {
    let (bits, halved) = match picture.format() {
        Pixel::YUV420P10LE => (10, (true, true)),
        Pixel::YUV422P10LE => (10, (true, false)),
        Pixel::YUV444P10LE => (10, (false, false)),
        Pixel::YUV420P12LE => (12, (true, true)),
        Pixel::YUV422P12LE => (12, (true, false)),
        Pixel::YUV444P12LE => (12, (false, false)),
        format => (8, halved(format)?.0),
    };
    Some(DeepPicture {
        width: picture.width() as usize,
        height: picture.height() as usize,
        planes: [0, 1, 2].map(|i| (picture.data(i), picture.stride(i))),
        bits,
        halved,
        matrix: matrix(picture),
        full_range: picture.color_range() == color::Range::JPEG,
    })
}

/// HDR transfer function of a picture. The decoder repeats that of the container where the bitstream has none.
fn hdr_transfer(picture: &frame::Video) -> Option<Transfer> {
    match picture.color_transfer_characteristic() {
        color::TransferCharacteristic::SMPTE2084 => Some(Transfer::Pq),
        color::TransferCharacteristic::ARIB_STD_B67 => Some(Transfer::Hlg),
        _ => None,
    }
}

/// Primaries of an HDR picture. BT.2020 is the rule.
fn primaries(picture: &frame::Video) -> Primaries {
    match picture.color_primaries() {
        color::Primaries::SMPTE432 => Primaries::DisplayP3,
        color::Primaries::BT709 => Primaries::Bt709,
        _ => Primaries::Bt2020,
    }
}

fn has_alpha(format: Pixel) -> bool {
    use Pixel::*;
    matches!(
        format,
        YUVA420P
            | YUVA422P
            | YUVA444P
            | YUVA422P10LE
            | YUVA444P10LE
            | YUVA444P12LE
            | RGBA
            | BGRA
            | ARGB
            | ABGR
    )
}

/// For 8-bit planar formats: the sides on which chroma is halved (width, height), and whether the range is
/// full by definition.
fn halved(format: Pixel) -> Option<((bool, bool), bool)> {
    Some(match format {
        Pixel::YUV420P => ((true, true), false),
        Pixel::YUVJ420P => ((true, true), true),
        Pixel::YUV422P => ((true, false), false),
        Pixel::YUVJ422P => ((true, false), true),
        Pixel::YUV444P => ((false, false), false),
        Pixel::YUVJ444P => ((false, false), true),
        _ => return None,
    })
}

/// Colour matrix of the stream. If the stream gives none, the guess of players: BT.709 from HD on, BT.601
/// below.
fn matrix(picture: &frame::Video) -> ColourMatrix {
    match picture.color_space() {
        color::Space::BT709 => yuv::BT709,
        color::Space::BT470BG | color::Space::SMPTE170M | color::Space::FCC => yuv::BT601,
        color::Space::SMPTE240M => yuv::SMPTE240M,
        color::Space::BT2020NCL | color::Space::BT2020CL => yuv::BT2020,
        _ if picture.width() >= 1280 || picture.height() > 576 => yuv::BT709,
        _ => yuv::BT601,
    }
}

fn scaler_space(matrix: ColourMatrix) -> c_int {
    match matrix {
        yuv::BT709 => ffi::SWS_CS_ITU709,
        yuv::BT2020 => ffi::SWS_CS_BT2020,
        yuv::SMPTE240M => ffi::SWS_CS_SMPTE240M,
        _ => ffi::SWS_CS_ITU601,
    }
}

#[allow(unsafe_code)]
fn scaler(key: Key) -> Result<scaling::Context, ffmpeg::Error> {
    use scaling::Flags;
    let flags = Flags::BILINEAR | Flags::ACCURATE_RND | Flags::FULL_CHR_H_INT | Flags::FULL_CHR_H_INP;
    let Key { from, to, width, height, space, full_range } = key;
    let mut scaler = scaling::Context::get(from, width, height, to, width, height, flags)?;
    const NEUTRAL: c_int = 1 << 16;
    // SAFETY: the context is alive and owned here, and the tables are static. With RGB input the call does
    // nothing and returns a negative code, which is correct: there is no matrix to set.
    unsafe {
        let table = ffi::sws_getCoefficients(space);
        let full = c_int::from(full_range);
        ffi::sws_setColorspaceDetails(scaler.as_mut_ptr(), table, full, table, 1, 0, NEUTRAL, NEUTRAL);
    }
    Ok(scaler)
}
