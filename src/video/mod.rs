//! Bytes -> frames.
pub struct Frame { pub pts: f64, pub image: image::RgbImage }
