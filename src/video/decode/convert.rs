//! Decoded pictures -> RGB at their native size, with the rotation of the container applied.

use std::ffi::c_int;

use ffmpeg::format::Pixel;
use ffmpeg::software::scaling;
use ffmpeg::util::color;
use ffmpeg::{ffi, frame};
use ffmpeg_next as ffmpeg;
use image::RgbImage;

use crate::video::Orientation;
use crate::video::yuv::{self, ColourMatrix, Picture, Plane};

/// Converts pictures to RGB. It keeps the scaler of the last picture that needed one.
pub(super) struct Converter {
    orientation: Orientation,
    scaler: Option<(Key, scaling::Context)>,
}

// SAFETY: an SwsContext is not bound to a thread. It is used through `&mut self` only, and all other fields
// are plain data.
#[allow(unsafe_code)]
unsafe impl Send for Converter {}

#[derive(Clone, Copy, PartialEq)]
struct Key {
    format: Pixel,
    width: u32,
    height: u32,
    space: c_int,
    full_range: bool,
}

impl Converter {
    pub(super) fn new(orientation: Orientation) -> Self {
        Converter { orientation, scaler: None }
    }

    pub(super) fn rgb(&mut self, picture: &frame::Video) -> Result<RgbImage, String> {
        let (width, height) = (picture.width(), picture.height());
        if width == 0 || height == 0 {
            return Err("the picture has no pixels".into());
        }
        let bytes = match halved(picture.format()) {
            Some((halved, jpeg)) => {
                let plane = |i| Plane { data: picture.data(i), stride: picture.stride(i) };
                yuv::to_rgb(&Picture {
                    width: width as usize,
                    height: height as usize,
                    planes: [plane(0), plane(1), plane(2)],
                    halved,
                    matrix: matrix(picture),
                    full_range: jpeg || picture.color_range() == color::Range::JPEG,
                })
            }
            None => self.scale(picture).map_err(|e| e.to_string())?,
        };
        let image = RgbImage::from_raw(width, height, bytes)
            .ok_or("the picture has another size than its header gives")?;
        Ok(self.orientation.apply(image))
    }

    /// Converts all other pixel formats (more than 8 bits, packed, RGB, grey) with swscale.
    fn scale(&mut self, picture: &frame::Video) -> Result<Vec<u8>, ffmpeg::Error> {
        let key = Key {
            format: picture.format(),
            width: picture.width(),
            height: picture.height(),
            space: scaler_space(matrix(picture)),
            full_range: picture.color_range() == color::Range::JPEG,
        };
        if self.scaler.as_ref().is_none_or(|(last, _)| *last != key) {
            self.scaler = Some((key, scaler(key)?));
        }
        let Some((_, scaler)) = &mut self.scaler else { return Err(ffmpeg::Error::Bug) };
        let mut rgb = frame::Video::empty();
        scaler.run(picture, &mut rgb)?;
        let row = picture.width() as usize * 3;
        let rows = rgb.data(0).chunks(rgb.stride(0)).take(picture.height() as usize);
        Ok(rows.flat_map(|padded| &padded[..row]).copied().collect())
    }
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
    let Key { format, width, height, space, full_range } = key;
    let mut scaler = scaling::Context::get(format, width, height, Pixel::RGB24, width, height, flags)?;
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
