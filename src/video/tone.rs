//! HDR -> the colours of an SDR screen (BT.709).
//!
//! The transfer function gives light in units of reference white (203 cd/m2, ITU-R BT.2408). Up to that white the
//! picture is what a conversion without tone mapping gives. Brighter light is compressed into the last steps.

/// Reference white in cd/m2.
const WHITE: f64 = 203.0;
/// Nominal peak of an HLG screen in cd/m2, and its system gamma (ITU-R BT.2100).
const HLG_PEAK: f64 = 1000.0;
const HLG_GAMMA: f64 = 1.2;
/// Exponent of an SDR screen (ITU-R BT.1886).
const SCREEN_GAMMA: f64 = 2.4;
/// Value of an SDR channel from which on brighter light is compressed.
const KNEE: f64 = 0.965;

/// HDR transfer function of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transfer {
    /// SMPTE ST 2084.
    Pq,
    /// ARIB STD-B67.
    Hlg,
}

/// Colour primaries of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Primaries {
    Bt2020,
    /// P3 with the white of BT.709.
    DisplayP3,
    Bt709,
}

impl Primaries {
    /// Matrix from light of these primaries to light of BT.709.
    fn to_bt709(self) -> [[f32; 3]; 3] {
        match self {
            Primaries::Bt2020 => [
                [1.660_491, -0.587_641, -0.072_850],
                [-0.124_550, 1.132_9, -0.008_349],
                [-0.018_151, -0.100_579, 1.118_73],
            ],
            Primaries::DisplayP3 => [
                [1.224_94, -0.224_940, 0.0],
                [-0.042_057, 1.042_057, 0.0],
                [-0.019_638, -0.078_636, 1.098_274],
            ],
            Primaries::Bt709 => [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        }
    }
}

/// Tables for one transfer function and one set of primaries.
pub(super) struct ToneMap {
    transfer: Transfer,
    primaries: Primaries,
    matrix: [[f32; 3]; 3],
    /// Light by signal.
    light: Vec<f32>,
    /// SDR value by light.
    shown: LogTable,
}

impl ToneMap {
    pub(super) fn new(transfer: Transfer, primaries: Primaries) -> Self {
        let entries = 1 << 16;
        let signal = |i: usize| i as f64 / (entries - 1) as f64;
        ToneMap {
            transfer,
            primaries,
            matrix: primaries.to_bt709(),
            light: (0..entries).map(|i| light(transfer, signal(i)) as f32).collect(),
            shown: LogTable::new(|light| (shown(light) * 255.0).round() as u8),
        }
    }

    /// Whether the tables are for these.
    pub(super) fn is_for(&self, transfer: Transfer, primaries: Primaries) -> bool {
        self.transfer == transfer && self.primaries == primaries
    }

    /// Converts one pixel: three R'G'B' signals.
    pub(super) fn pixel(&self, signal: [u16; 3]) -> [u8; 3] {
        let [r, g, b] = signal.map(|value| self.light[usize::from(value)]);
        self.matrix.map(|row| self.shown.at(row[0] * r + row[1] * g + row[2] * b))
    }
}

/// Signal -> light of the screen in units of reference white. The system gamma of HLG applies to each channel, as
/// in zimg.
fn light(transfer: Transfer, signal: f64) -> f64 {
    match transfer {
        Transfer::Pq => {
            let (m1, m2) = (2610.0 / 16384.0, 2523.0 / 4096.0 * 128.0);
            let (c1, c2, c3) = (3424.0 / 4096.0, 2413.0 / 4096.0 * 32.0, 2392.0 / 4096.0 * 32.0);
            let root = signal.powf(1.0 / m2);
            ((root - c1).max(0.0) / (c2 - c3 * root)).powf(1.0 / m1) * 10_000.0 / WHITE
        }
        Transfer::Hlg => {
            let (a, b, c) = (0.178_832_77, 0.284_668_92, 0.559_910_73);
            let scene =
                if signal <= 0.5 { signal * signal / 3.0 } else { (((signal - c) / a).exp() + b) / 12.0 };
            scene.powf(HLG_GAMMA) * HLG_PEAK / WHITE
        }
    }
}

/// Light in units of reference white -> SDR value from 0 to 1. The curve has no corner at the knee and stays
/// below 1.
fn shown(light: f64) -> f64 {
    let value = light.max(0.0).powf(1.0 / SCREEN_GAMMA);
    if value <= KNEE {
        return value;
    }
    let over = (value - KNEE) / (1.0 - KNEE);
    KNEE + (1.0 - KNEE) * over / (1.0 + over)
}

/// Bytes by positive numbers, with a fixed number of entries for each power of two.
struct LogTable(Vec<u8>);

impl LogTable {
    /// Bits of the fraction that count.
    const FRACTION: u32 = 8;
    /// Powers of two of the table: from 2^-24 to 2^7, twice the brightest PQ light.
    const LOWEST: i32 = -24;
    const HIGHEST: i32 = 7;

    fn new(function: impl Fn(f64) -> u8) -> Self {
        let per_power = 1 << Self::FRACTION;
        let entries = (Self::HIGHEST - Self::LOWEST) * per_power;
        let middle = |i: i32| {
            let fraction = (f64::from(i % per_power) + 0.5) / f64::from(per_power);
            (1.0 + fraction) * f64::from(Self::LOWEST + i / per_power).exp2()
        };
        // The first entry is for zero, for negative numbers and for all below the table.
        LogTable(std::iter::once(function(0.0)).chain((0..entries).map(|i| function(middle(i)))).collect())
    }

    fn at(&self, value: f32) -> u8 {
        let lowest = (127 + Self::LOWEST) << Self::FRACTION;
        let place = (value.max(0.0).to_bits() >> (23 - Self::FRACTION)) as i32 - lowest + 1;
        self.0[place.clamp(0, self.0.len() as i32 - 1) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREYS: [(Transfer, &[u8]); 2] = [
        // Signals 0, 0.05, 0.1 and so on up to reference white. Reference values of zimg 3.0.4:
        // zscale=tin=smpte2084:min=bt2020nc:pin=bt2020:t=bt709:p=bt709:m=bt709:npl=203, and tin=arib-std-b67.
        (Transfer::Pq, &[0, 9, 17, 28, 40, 55, 73, 94, 118, 148, 184, 226]),
        (Transfer::Hlg, &[0, 14, 29, 43, 57, 72, 86, 100, 114, 129, 143, 159, 178, 199, 225]),
    ];

    fn signal(value: f64) -> u16 {
        (value * 65535.0).round() as u16
    }

    #[test]
    fn greys_are_those_of_zimg() {
        for (transfer, expected) in GREYS {
            let map = ToneMap::new(transfer, Primaries::Bt2020);
            for (i, expected) in expected.iter().enumerate() {
                let [r, g, b] = map.pixel([signal(i as f64 * 0.05); 3]);
                assert!(r.abs_diff(*expected) <= 2, "{transfer:?} {i}: {r} for {expected}");
                assert!(r.abs_diff(g) <= 1 && g.abs_diff(b) <= 1, "{transfer:?} {i}: {r} {g} {b}");
            }
        }
    }

    #[test]
    fn light_is_monotone_up_to_the_peak() {
        for transfer in [Transfer::Pq, Transfer::Hlg] {
            let map = ToneMap::new(transfer, Primaries::Bt2020);
            let greys: Vec<u8> = (0..=u16::MAX).step_by(16).map(|s| map.pixel([s; 3])[1]).collect();
            assert!(greys.is_sorted(), "{transfer:?}");
            assert!(greys[0] == 0 && *greys.last().unwrap() >= 254, "{transfer:?}");
        }
        // Light above reference white keeps differences: 203, 400 and 1000 cd/m2.
        let map = ToneMap::new(Transfer::Pq, Primaries::Bt709);
        let [white, bright, peak] = [0.5807, 0.6526, 0.7518].map(|value| map.pixel([signal(value); 3])[0]);
        assert!((249..=251).contains(&white) && white < bright && bright < peak, "{white} {bright} {peak}");
    }

    #[test]
    fn colours_outside_bt709_are_clipped() {
        let map = ToneMap::new(Transfer::Pq, Primaries::Bt2020);
        let [r, g, b] = map.pixel([signal(0.5), 0, 0]);
        assert!(r > 200 && g == 0 && b == 0, "{r} {g} {b}");
    }
}
