//! A contact sheet of a few evenly spaced frames of a video, for people.

use flamingo::video::Frame;
use image::codecs::jpeg::JpegEncoder;

use super::{ContactSheet, Layout};

/// Largest number of frames on a sheet.
const MAX_FRAMES: usize = 24;
const QUALITY: u8 = 80;

/// Takes every frame of a video and keeps a few that are evenly spaced.
pub struct FrameSampler {
    sheet: ContactSheet,
    /// One frame of every `step` is kept.
    step: usize,
    offered: usize,
    kept: usize,
}

impl Default for FrameSampler {
    fn default() -> Self {
        let layout = Layout { columns: Some(6), thumbnail: 200, gap: 8 };
        Self { sheet: ContactSheet::new(layout), step: 1, offered: 0, kept: 0 }
    }
}

impl FrameSampler {
    /// Offers the next frame.
    pub fn add(&mut self, frame: &Frame) {
        let wanted = self.offered.is_multiple_of(self.step);
        self.offered += 1;
        if !wanted {
            return;
        }
        if self.kept == MAX_FRAMES {
            // The number of frames is unknown in advance: at each doubling, drop every other one.
            self.sheet.halve();
            self.kept = MAX_FRAMES / 2;
            self.step *= 2;
        }
        self.sheet.add(frame);
        self.kept += 1;
    }

    /// Returns the sheet as JPEG, or `None` without a frame.
    ///
    /// # Errors
    /// The sheet is larger than a JPEG may be.
    pub fn jpeg(&self) -> image::ImageResult<Option<Vec<u8>>> {
        if self.kept == 0 {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        self.sheet.draw().write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, QUALITY))?;
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;

    #[test]
    fn keeps_at_most_24_frames() {
        for (frames, kept) in [(1, 1), (24, 24), (25, 13), (48, 24), (49, 13), (1000, 16)] {
            let mut sheet = FrameSampler::default();
            for n in 0..frames {
                sheet.add(&Frame::at(f64::from(n), RgbImage::new(64, 48)));
            }
            assert_eq!(sheet.kept, kept, "{frames}");
            let jpeg = sheet.jpeg().unwrap().unwrap();
            assert_eq!(image::guess_format(&jpeg).unwrap(), image::ImageFormat::Jpeg);
        }
        assert!(FrameSampler::default().jpeg().unwrap().is_none());
    }
}
