//! Block formats of GGML, and weights in bf16.

use half::f16;
use wide::f32x8;

/// Weights per block, the same for all supported formats.
pub(super) const BLOCK: usize = 32;
/// Values in a vector register.
pub(super) const LANES: usize = 8;
/// A block of values in registers.
pub(super) type Vectors = [f32x8; BLOCK / LANES];

/// Block format of GGML: every weight is `scale * number + offset`.
pub(super) trait BlockFormat {
    /// Bytes of a group of blocks.
    const BYTES: usize;
    /// Blocks of a group.
    const BLOCKS: usize = 1;
    /// Unpacks one block of a group.
    fn unpack(group: &[u8], block: usize) -> UnpackedBlock;
}

/// A block in registers.
pub(super) struct UnpackedBlock {
    pub(super) scale: f32,
    pub(super) offset: f32,
    pub(super) numbers: Vectors,
}

/// f16 scale; 16 bytes with two weights each, stored plus 8.
pub(super) struct Q4_0;
/// f16 scale, f16 minimum; 16 bytes with two weights each.
pub(super) struct Q4_1;
/// f16 scale and f16 scale of minima; 12 bytes with the scale and minimum of each of eight blocks in 6 bits; 128 bytes with
/// two weights each: the low halves of 32 bytes are a block, the high halves the next.
pub(super) struct Q4K;
/// f16 scale; 32 signed bytes.
pub(super) struct Q8_0;
/// 32 weights in bf16, which are exact: a checkpoint stays in its mapped file.
pub(super) struct Bf16;

impl BlockFormat for Q4_0 {
    const BYTES: usize = 18;

    #[inline(always)]
    fn unpack(block: &[u8], _: usize) -> UnpackedBlock {
        let scale = half_at(block, 0);
        UnpackedBlock { scale, offset: -8.0 * scale, numbers: nibbles(&block[2..Self::BYTES]) }
    }
}

impl BlockFormat for Q4_1 {
    const BYTES: usize = 20;

    #[inline(always)]
    fn unpack(block: &[u8], _: usize) -> UnpackedBlock {
        UnpackedBlock {
            scale: half_at(block, 0),
            offset: half_at(block, 2),
            numbers: nibbles(&block[4..Self::BYTES]),
        }
    }
}

impl BlockFormat for Q4K {
    const BYTES: usize = 144;
    const BLOCKS: usize = 8;

    #[inline(always)]
    fn unpack(group: &[u8], block: usize) -> UnpackedBlock {
        let packed = &group[4..16];
        let (scale, minimum) = match block {
            0..4 => (packed[block] & 63, packed[block + 4] & 63),
            _ => (
                packed[block + 4] & 15 | packed[block - 4] >> 6 << 4,
                packed[block + 4] >> 4 | packed[block] >> 6 << 4,
            ),
        };
        let bytes = &group[16 + block / 2 * BLOCK..][..BLOCK];
        let shift = block % 2 * 4;
        let eight = |at: usize| f32x8::new(std::array::from_fn(|i| f32::from(bytes[at + i] >> shift & 15)));
        UnpackedBlock {
            scale: half_at(group, 0) * f32::from(scale),
            offset: -half_at(group, 2) * f32::from(minimum),
            numbers: [eight(0), eight(8), eight(16), eight(24)],
        }
    }
}

impl BlockFormat for Q8_0 {
    const BYTES: usize = 34;

    #[inline(always)]
    fn unpack(block: &[u8], _: usize) -> UnpackedBlock {
        let eight = |at: usize| f32x8::new(std::array::from_fn(|i| f32::from(block[2 + at + i] as i8)));
        UnpackedBlock {
            scale: half_at(block, 0),
            offset: 0.0,
            numbers: [eight(0), eight(8), eight(16), eight(24)],
        }
    }
}

impl BlockFormat for Bf16 {
    const BYTES: usize = 2 * BLOCK;

    #[inline(always)]
    fn unpack(block: &[u8], _: usize) -> UnpackedBlock {
        let weight =
            |i: usize| f32::from_bits(u32::from(u16::from_le_bytes([block[2 * i], block[2 * i + 1]])) << 16);
        let eight = |at: usize| f32x8::new(std::array::from_fn(|i| weight(at + i)));
        UnpackedBlock { scale: 1.0, offset: 0.0, numbers: [eight(0), eight(8), eight(16), eight(24)] }
    }
}

#[inline(always)]
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Unpacks 4-bit numbers: the low halves of the bytes are the first 16, the high halves the others.
#[inline(always)]
fn nibbles(packed: &[u8]) -> Vectors {
    let low = |at: usize| f32x8::new(std::array::from_fn(|i| f32::from(packed[at + i] & 15)));
    let high = |at: usize| f32x8::new(std::array::from_fn(|i| f32::from(packed[at + i] >> 4)));
    [low(0), low(8), high(0), high(8)]
}
