//! A small picture of the frames that a video was judged by, for people.

use flamingo::video::{ContactSheet, Frame, Sheet};
use image::codecs::jpeg::JpegEncoder;

/// Frames on a sheet.
const MOST: usize = 24;
const QUALITY: u8 = 80;

/// Takes every frame as it comes, and keeps a few that are spread evenly.
pub struct FewFrames {
    sheet: Sheet,
    /// Every so many frames one is kept.
    step: usize,
    shown: usize,
    kept: usize,
}

impl Default for FewFrames {
    fn default() -> Self {
        let layout = ContactSheet { columns: Some(6), thumbnail: 200, gap: 8 };
        Self { sheet: Sheet::new(layout), step: 1, shown: 0, kept: 0 }
    }
}

impl FewFrames {
    pub fn add(&mut self, frame: &Frame) {
        let wanted = self.shown.is_multiple_of(self.step);
        self.shown += 1;
        if !wanted {
            return;
        }
        if self.kept == MOST {
            // How many will come is not known: with each doubling half of them make room.
            self.sheet.halve();
            self.kept = MOST / 2;
            self.step *= 2;
        }
        self.sheet.add(frame);
        self.kept += 1;
    }

    /// As JPEG; `None`: there was no frame.
    ///
    /// # Errors
    /// The picture is larger than a JPEG may be.
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
    fn few_frames_of_many_are_kept() {
        for (frames, kept) in [(1, 1), (24, 24), (25, 13), (48, 24), (49, 13), (1000, 16)] {
            let mut sheet = FewFrames::default();
            for n in 0..frames {
                sheet.add(&Frame { pts: f64::from(n), image: RgbImage::new(64, 48) });
            }
            assert_eq!(sheet.kept, kept, "{frames}");
            let jpeg = sheet.jpeg().unwrap().unwrap();
            assert_eq!(image::guess_format(&jpeg).unwrap(), image::ImageFormat::Jpeg);
        }
        assert!(FewFrames::default().jpeg().unwrap().is_none());
    }
}
