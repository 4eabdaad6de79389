//! Operations that candle lacks or does slowly, each differentiable where training needs it.

pub mod quantized;
pub mod linear;
pub mod norm;
pub mod activation;
pub mod attention;
pub mod gelu;
pub mod conv;
