//! Frames -> visual features.
use candle_core::Tensor;
use crate::error::Result;
pub trait VisionEncoder: Send + Sync {
    fn encode(&self, pixels: &Tensor) -> Result<Tensor>;
    fn width(&self) -> usize;
}
