//! Operations that candle lacks or computes slowly, each differentiable where training needs it.

#[cfg(test)]
pub(crate) mod finite_differences;
pub mod threads;
pub mod floats;
mod product;
mod panels;
pub mod quantized;
pub mod linear;
pub mod norm;
pub mod activation;
pub mod mask;
pub mod attention;
pub mod gelu;
pub mod conv;
pub mod planes;
pub mod standardise;
