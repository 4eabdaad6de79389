//! 8-bit planar YCbCr -> RGB, exact to one step, with chroma interpolated to every pixel.
//!
//! The fast path of swscale repeats each chroma sample over 2x2 pixels. Its accurate path takes 6 to 13 ms
//! for a 720p frame, more than decoding a key frame. The compiler vectorises the plain loops over rows below.

/// Weights of red and blue in luma; green is the rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ColourMatrix {
    pub kr: f64,
    pub kb: f64,
}

pub(super) const BT601: ColourMatrix = ColourMatrix { kr: 0.299, kb: 0.114 };
pub(super) const BT709: ColourMatrix = ColourMatrix { kr: 0.2126, kb: 0.0722 };
pub(super) const BT2020: ColourMatrix = ColourMatrix { kr: 0.2627, kb: 0.0593 };
pub(super) const SMPTE240M: ColourMatrix = ColourMatrix { kr: 0.212, kb: 0.087 };

/// A plane of samples. Rows are `stride` bytes apart.
#[derive(Clone, Copy)]
pub(super) struct Plane<'a> {
    pub data: &'a [u8],
    pub stride: usize,
}

impl<'a> Plane<'a> {
    fn row(&self, y: usize, width: usize) -> &'a [u8] {
        &self.data[y * self.stride..][..width]
    }
}

/// A decoded picture in planar YCbCr.
pub(super) struct Picture<'a> {
    pub width: usize,
    pub height: usize,
    /// Y, Cb, Cr.
    pub planes: [Plane<'a>; 3],
    /// Whether chroma has half the width and half the height (rounded up).
    pub halved: (bool, bool),
    pub matrix: ColourMatrix,
    /// Samples use 0..=255 ("JPEG" range) rather than 16..=235 and 16..=240.
    pub full_range: bool,
}

/// Chroma values are multiplied by 8 after 128 is subtracted, so the vertical (1/4) and horizontal (1/2)
/// interpolation is exact.
const BITS: i32 = 16;
const CHROMA_BITS: i32 = BITS - 3;

struct Coefficients {
    y: i32,
    y_offset: i32,
    r_cr: i32,
    g_cb: i32,
    g_cr: i32,
    b_cb: i32,
}

impl Coefficients {
    fn new(matrix: ColourMatrix, full_range: bool) -> Self {
        let ColourMatrix { kr, kb } = matrix;
        let kg = 1.0 - kr - kb;
        let (luma, chroma, y_offset) =
            if full_range { (1.0, 1.0, 0) } else { (255.0 / 219.0, 255.0 / 224.0, 16) };
        let fixed = |value: f64, bits: i32| (value * f64::from(1 << bits)).round() as i32;
        let chroma = |value: f64| fixed(value * chroma, CHROMA_BITS);
        Coefficients {
            y: fixed(luma, BITS),
            y_offset,
            r_cr: chroma(2.0 * (1.0 - kr)),
            g_cb: chroma(-2.0 * kb * (1.0 - kb) / kg),
            g_cr: chroma(-2.0 * kr * (1.0 - kr) / kg),
            b_cb: chroma(2.0 * (1.0 - kb)),
        }
    }
}

/// Converts a picture to RGB: three bytes per pixel, rows without padding.
///
/// Chroma samples lie at the left of their pixel pair and halfway between their rows: the default siting of
/// MPEG-2, H.264 and later codecs.
///
/// The loops below use wrapping arithmetic, because an overflow check prevents vectorisation. No value comes
/// near the limits of its type (8-bit samples, coefficients below 2.2).
pub(super) fn to_rgb(picture: &Picture) -> Vec<u8> {
    let (width, height) = (picture.width, picture.height);
    let coefficients = Coefficients::new(picture.matrix, picture.full_range);
    let [luma, cb, cr] = picture.planes;
    let mut rgb = vec![0u8; width * height * 3];
    let (mut cb_row, mut cr_row) = (vec![0i16; width + 1], vec![0i16; width + 1]);
    let mut narrow = vec![0i16; width + 1];
    let mut planar = [vec![0u8; width], vec![0u8; width], vec![0u8; width]];
    for (y, out) in rgb.chunks_exact_mut(width * 3).enumerate() {
        chroma_row(picture, cb, y, &mut narrow, &mut cb_row);
        chroma_row(picture, cr, y, &mut narrow, &mut cr_row);
        convert_row(&coefficients, luma.row(y, width), &cb_row[..width], &cr_row[..width], &mut planar);
        interleave(&planar, out);
    }
    rgb
}

/// Interpolates row `y` of a chroma plane to full width, times 8, with zero as the neutral value.
fn chroma_row(picture: &Picture, plane: Plane, y: usize, narrow: &mut [i16], wide: &mut [i16]) {
    let chroma = |size: usize, halved: bool| if halved { size.div_ceil(2) } else { size };
    let (width, height) = (chroma(picture.width, picture.halved.0), chroma(picture.height, picture.halved.1));
    let (near, far) = match picture.halved.1 {
        false => (y, y),
        true if y.is_multiple_of(2) => (y / 2, (y / 2).saturating_sub(1)),
        true => (y / 2, (y / 2 + 1).min(height - 1)),
    };
    let (near, far) = (plane.row(near, width), plane.row(far, width));
    let narrow = &mut narrow[..width];
    for ((out, near), far) in narrow.iter_mut().zip(near).zip(far) {
        *out = i16::from(*near).wrapping_mul(3).wrapping_add(i16::from(*far)).wrapping_sub(128 * 4);
    }
    if !picture.halved.0 {
        wide.iter_mut().zip(narrow).for_each(|(out, value)| *out = value.wrapping_mul(2));
        return;
    }
    let last = narrow[width - 1];
    for (pair, (left, right)) in wide.chunks_exact_mut(2).zip(narrow.iter().zip(&narrow[1..])) {
        pair[0] = left.wrapping_mul(2);
        pair[1] = left.wrapping_add(*right);
    }
    // The last sample has no right neighbour. `wide` has room for the pair even if the width is odd.
    wide[2 * (width - 1)..].iter_mut().take(2).for_each(|out| *out = 2 * last);
}

fn convert_row(c: &Coefficients, luma: &[u8], cb: &[i16], cr: &[i16], [red, green, blue]: &mut [Vec<u8>; 3]) {
    let offset = (1 << (BITS - 1)) - c.y_offset * c.y;
    let grey = |y: u8| i32::from(y).wrapping_mul(c.y).wrapping_add(offset);
    let times = |chroma: i16, coefficient: i32| i32::from(chroma).wrapping_mul(coefficient);
    let byte = |sum: i32| (sum >> BITS).clamp(0, 255) as u8;
    for ((out, y), cr) in red.iter_mut().zip(luma).zip(cr) {
        *out = byte(grey(*y).wrapping_add(times(*cr, c.r_cr)));
    }
    for (((out, y), cb), cr) in green.iter_mut().zip(luma).zip(cb).zip(cr) {
        *out = byte(grey(*y).wrapping_add(times(*cb, c.g_cb)).wrapping_add(times(*cr, c.g_cr)));
    }
    for ((out, y), cb) in blue.iter_mut().zip(luma).zip(cb) {
        *out = byte(grey(*y).wrapping_add(times(*cb, c.b_cb)));
    }
}

fn interleave([red, green, blue]: &[Vec<u8>; 3], out: &mut [u8]) {
    for (((rgb, red), green), blue) in out.chunks_exact_mut(3).zip(red).zip(green).zip(blue) {
        rgb[0] = *red;
        rgb[1] = *green;
        rgb[2] = *blue;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(n: usize, seed: u32) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..n).map(|_| next()).collect()
    }

    /// The textbook formula for one pixel, in `f64`.
    fn reference(picture: &Picture, x: usize, y: usize) -> [f64; 3] {
        let at = |size: usize, i: f64| (i.max(0.0) as usize).min(size - 1);
        let sample = |plane: Plane, x: f64, y: f64| {
            let (w, h) = (
                if picture.halved.0 { picture.width.div_ceil(2) } else { picture.width },
                if picture.halved.1 { picture.height.div_ceil(2) } else { picture.height },
            );
            let (fx, fy) = (x - x.floor(), y - y.floor());
            let pixel = |x, y| f64::from(plane.data[at(h, y) * plane.stride + at(w, x)]);
            let row = |y| pixel(x.floor(), y) * (1.0 - fx) + pixel(x.floor() + 1.0, y) * fx;
            row(y.floor()) * (1.0 - fy) + row(y.floor() + 1.0) * fy
        };
        let cx = if picture.halved.0 { x as f64 / 2.0 } else { x as f64 };
        let cy = if picture.halved.1 { (y as f64 - 0.5) / 2.0 } else { y as f64 };
        let (scale_y, scale_c, offset) =
            if picture.full_range { (1.0, 1.0, 0.0) } else { (255.0 / 219.0, 255.0 / 224.0, 16.0) };
        let luma = (f64::from(picture.planes[0].row(y, picture.width)[x]) - offset) * scale_y;
        let cb = (sample(picture.planes[1], cx, cy) - 128.0) * scale_c;
        let cr = (sample(picture.planes[2], cx, cy) - 128.0) * scale_c;
        let ColourMatrix { kr, kb } = picture.matrix;
        let (r, b) = (luma + 2.0 * (1.0 - kr) * cr, luma + 2.0 * (1.0 - kb) * cb);
        [r, (luma - kr * r - kb * b) / (1.0 - kr - kb), b]
    }

    fn check(width: usize, height: usize, halved: (bool, bool), matrix: ColourMatrix, full_range: bool) {
        let stride = width + 5;
        let data: Vec<_> = (0..3).map(|i| samples(stride * (height + 1), 7 + i)).collect();
        let plane = |i: usize| Plane { data: &data[i], stride };
        let planes = [plane(0), plane(1), plane(2)];
        let picture = Picture { width, height, planes, halved, matrix, full_range };
        let rgb = to_rgb(&picture);
        assert_eq!(rgb.len(), width * height * 3);
        for (i, pixel) in rgb.chunks_exact(3).enumerate() {
            let expected = reference(&picture, i % width, i / width);
            for (found, expected) in pixel.iter().zip(expected) {
                let off = (f64::from(*found) - expected.clamp(0.0, 255.0)).abs();
                assert!(off < 0.52, "{width}x{height} pixel {i}: {found} for {expected:.2}");
            }
        }
    }

    #[test]
    fn matches_textbook_formula() {
        check(22, 14, (true, true), BT601, false);
        check(23, 13, (true, true), BT709, false);
        check(19, 8, (true, false), BT2020, false);
        check(6, 11, (false, false), SMPTE240M, true);
        check(1, 1, (true, true), BT709, true);
        check(2, 3, (true, true), BT601, true);
    }
}
