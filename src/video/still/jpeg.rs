//! Completeness of a JPEG. Where a file is cut, the decoder fills the rest of the picture with grey and reports
//! nothing.

/// Bytes that replace the missing end of a scan. A few blocks of noise change the picture.
const NOISE_BYTES: usize = 512;
/// Zeros at the end of a file without end marker that are not taken for data.
const FILL_BYTES: usize = 64;
/// Zeros with which the data of a scan can end.
const SCAN_ZEROS: usize = 4;
const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];

/// A JPEG up to the end of its last scan, without the end marker and without what follows it.
pub(in crate::video) struct Jpeg {
    scans: Vec<u8>,
    /// The end marker is present, or the scans carry every bit of every coefficient.
    all_scans: bool,
}

impl Jpeg {
    /// Reads the markers of a file.
    pub(in crate::video) fn new(mut bytes: Vec<u8>) -> Self {
        let mut progress = Progress::default();
        let end = end_marker(&bytes, &mut progress);
        bytes.truncate(end.unwrap_or(bytes.len()));
        if end.is_none() {
            bytes.truncate(without_zeros(&bytes));
        }
        Jpeg { scans: bytes, all_scans: end.is_some() || progress.is_complete() }
    }

    /// Returns the file with its end marker.
    pub(super) fn whole(&self) -> Vec<u8> {
        [&self.scans[..], &END_OF_IMAGE].concat()
    }

    /// Returns the file with noise after the data of the last scan. A decoder that has read all blocks does not
    /// read the noise: the picture is the same if and only if the scan is complete.
    pub(super) fn with_noise(&self) -> Vec<u8> {
        let mut state = 1u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let noise: Vec<u8> = noise.filter(|byte| *byte != 0xff).take(NOISE_BYTES).collect();
        [&self.scans[..], &noise, &END_OF_IMAGE].concat()
    }

    /// Whether no scan is missing altogether.
    pub(in crate::video) fn has_all_scans(&self) -> bool {
        self.all_scans
    }
}

/// Whether the bytes begin with one JPEG after the other, all of one size: a motion JPEG without a container.
/// A photo with more pictures in one file has other sizes, or an MPF segment.
pub(super) fn is_motion_jpeg(bytes: &[u8]) -> bool {
    let mut first = Progress::default();
    let Some(end) = end_marker(bytes, &mut first) else { return false };
    let rest = &bytes[end + END_OF_IMAGE.len()..];
    let mut second = Progress::default();
    let _ = end_marker(rest, &mut second);
    rest.starts_with(b"\xff\xd8\xff") && first.size.is_some() && first.size == second.size && !first.several
}

/// Returns the length without the zeros at the end, if there are many. Interrupted downloads fill a file with
/// zeros. The first ones stay, because the data of a scan can end with zeros.
fn without_zeros(bytes: &[u8]) -> usize {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if bytes.len() - end < FILL_BYTES { bytes.len() } else { end + SCAN_ZEROS }
}

/// Returns the position of the end marker, and records the scans before it.
fn end_marker(bytes: &[u8], progress: &mut Progress) -> Option<usize> {
    let mut at = 0;
    loop {
        at += bytes.get(at..)?.windows(2).position(|pair| pair[0] == 0xff && is_marker(pair[1]))?;
        let code = bytes[at + 1];
        match code {
            0xd9 => return Some(at),
            0xd8 | 0x01 => at += 2,
            _ => {
                let length = bytes.get(at + 2..at + 4)?;
                let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                let segment = bytes.get(at + 4..(at + 2 + length).max(at + 4))?;
                progress.read(code, segment);
                at += 2 + length;
            }
        }
    }
}

/// Whether the byte after 0xff makes a marker that ends a scan: no stuffing, no fill byte, no restart.
fn is_marker(code: u8) -> bool {
    !matches!(code, 0x00 | 0xff | 0xd0..=0xd7)
}

/// Contents of the segments so far.
#[derive(Default)]
struct Progress {
    /// Height and width, as in the frame header.
    size: Option<[u8; 4]>,
    /// The file has more than one picture, and tables that say so.
    several: bool,
    /// Identifier of each component, and for each of its 64 coefficients the bits that are still missing.
    components: Vec<(u8, [u8; 64])>,
}

impl Progress {
    fn read(&mut self, code: u8, segment: &[u8]) {
        match code {
            0xc4 | 0xc8 | 0xcc => {}
            0xc0..=0xcf => {
                let ids = segment.get(6..).unwrap_or(&[]).chunks_exact(3).map(|component| component[0]);
                self.size = segment.get(1..5).and_then(|size| size.try_into().ok());
                self.components = ids.map(|id| (id, [u8::MAX; 64])).collect();
            }
            0xda => self.scan(segment),
            0xe2 => self.several |= segment.starts_with(b"MPF\0"),
            _ => {}
        }
    }

    fn scan(&mut self, segment: &[u8]) {
        let count = usize::from(segment.first().copied().unwrap_or(0));
        let Some(&[first, last, bits]) = segment.get(1 + 2 * count..4 + 2 * count) else { return };
        let (first, last) = (usize::from(first), usize::from(last).min(63));
        for id in segment[1..].chunks_exact(2).take(count).map(|component| component[0]) {
            for (_, missing) in self.components.iter_mut().filter(|(other, _)| *other == id) {
                missing.iter_mut().take(last + 1).skip(first).for_each(|missing| *missing = bits & 15);
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.components.iter().all(|(_, missing)| *missing == [0; 64])
    }
}
