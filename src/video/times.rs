//! Repair of packet times that cannot be true: pure arithmetic over the packets in decoding order.
//!
//! - **Outlier**: one packet whose time does not fit the packets around it. It moves into the hole that it left.
//! - **Restart**: times go back and continue from there, as in recordings that were joined end to end. The later
//!   part moves to the end of the earlier one.
//! - **Jump**: times go forward by more than [`JUMP_S`] in a container whose times can be discontinuous (MPEG streams).
//!   The gap is closed. In any other container a gap is a frame that stays.
//!
//! A demuxer takes a large step back for a wrap of the time stamps, so it arrives as a step of almost a whole wrap
//! forward. A repair names the step back.
//!
//! Packets can be out of presentation order, because B-frames follow the frames that they refer to. No codec
//! reorders over more than [`MAX_REORDERED`] packets, so a packet that is out of order by more is an outlier.

use std::ops::Range;

/// Seconds. A larger gap in an MPEG stream is a discontinuity, as for the ffmpeg tool.
const JUMP_S: f64 = 10.0;
/// Largest number of packets that follow a packet in decoding order and precede it in presentation order (H.264
/// and HEVC).
const MAX_REORDERED: usize = 16;
/// Packets on each side that are compared with a packet.
const WINDOW: usize = 2 * MAX_REORDERED;
/// A packet is isolated if every other time is farther away than this many median intervals, and than
/// [`ISOLATED_S`].
const ISOLATED_INTERVALS: i64 = 16;
/// Seconds, as above.
const ISOLATED_S: f64 = 2.0;

/// Times of a presented packet in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PacketTimes {
    pub pts: i64,
    pub dts: Option<i64>,
    /// 0 if the container gives none.
    pub duration: i64,
}

/// Properties of a stream that decide which times are possible.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeRules {
    /// Ticks per second.
    pub rate: f64,
    /// Ticks after which times begin again, for a container whose times can be discontinuous.
    pub wrap: Option<i64>,
}

/// Kind of a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RepairKind {
    Outlier,
    Restart,
    Jump,
}

/// A repair: from packet `packet` on, times move by `by` ticks more than before. An outlier moves alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Repair {
    pub packet: usize,
    pub kind: RepairKind,
    pub by: i64,
}

/// Result of [`repair`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Repairs {
    /// Ticks to add to the times of each packet. Empty if nothing was repaired.
    pub shifts: Vec<i64>,
    /// In decoding order.
    pub repairs: Vec<Repair>,
}

/// Returns the median distance of consecutive presentation times in ticks; 0 if there are fewer than two.
pub(super) fn median_interval(mut pts: Vec<i64>) -> i64 {
    pts.sort_unstable();
    let mut gaps: Vec<i64> = pts.windows(2).map(|w| w[1].saturating_sub(w[0])).filter(|g| *g > 0).collect();
    gaps.sort_unstable();
    gaps.get(gaps.len() / 2).copied().unwrap_or(0)
}

/// Finds the repairs of the packets of a stream, given in decoding order.
pub(super) fn repair(packets: &[PacketTimes], rules: TimeRules) -> Repairs {
    let stream = Stream::new(packets, rules);
    let outliers = stream.outliers();
    let joints = stream.joints(&outliers);
    if outliers.is_empty() && joints.is_empty() {
        return Repairs::default();
    }
    let mut shifts = vec![0i64; packets.len()];
    let mut repairs = Vec::new();
    for (packet, pts) in stream.places(&outliers) {
        shifts[packet] = pts.saturating_sub(packets[packet].pts);
        repairs.push(Repair { packet, kind: RepairKind::Outlier, by: shifts[packet] });
    }
    // Parts are joined as they are presented: the first frame of a part follows the last one of the part before.
    let starts = joints.iter().map(|(packet, _)| *packet).chain([packets.len()]);
    let mut end = stream.range(0..joints.first().map_or(packets.len(), |(i, _)| *i), &shifts).1;
    let mut before = 0;
    for ((packet, kind), next) in joints.iter().zip(starts.skip(1)) {
        let (first, last) = stream.range(*packet..next, &shifts);
        let shift = end.saturating_sub(first);
        shifts[*packet..next].iter_mut().for_each(|s| *s = s.saturating_add(shift));
        end = last.saturating_add(shift);
        repairs.push(Repair { packet: *packet, kind: *kind, by: shift.saturating_sub(before) });
        before = shift;
    }
    repairs.sort_by_key(|repair| repair.packet);
    if let Some(wrap) = rules.wrap {
        repairs.iter_mut().for_each(|repair| repair.unwrap_time(wrap));
    }
    Repairs { shifts, repairs }
}

impl Repair {
    /// Removes a whole wrap from the step of a repair.
    fn unwrap_time(&mut self, wrap: i64) {
        if self.by < -wrap / 2 {
            self.by = self.by.saturating_add(wrap);
            if self.kind == RepairKind::Jump {
                self.kind = RepairKind::Restart;
            }
        }
    }
}

struct Stream<'a> {
    packets: &'a [PacketTimes],
    rules: TimeRules,
    interval: i64,
    /// Largest number of packets that can be out of order around one packet.
    reordered: usize,
}

impl<'a> Stream<'a> {
    fn new(packets: &'a [PacketTimes], rules: TimeRules) -> Self {
        let interval = median_interval(packets.iter().map(|p| p.pts).collect()).max(1);
        // Without B-frames decoding times are presentation times.
        let delayed = packets.iter().filter(|p| p.dts != Some(p.pts)).count();
        let reordered = if delayed * 4 > packets.len() { MAX_REORDERED } else { 1 };
        Stream { packets, rules, interval, reordered }
    }

    fn ticks(&self, seconds: f64) -> i64 {
        (seconds * self.rules.rate) as i64
    }

    fn window(&self, i: usize) -> Range<usize> {
        i.saturating_sub(WINDOW)..(i + WINDOW + 1).min(self.packets.len())
    }

    /// Returns the packets with an impossible time.
    fn outliers(&self) -> Vec<usize> {
        let counts: Vec<usize> = (0..self.packets.len()).map(|i| self.out_of_order(i)).collect();
        let misplaced = |i: usize| counts[i] > self.reordered;
        let is_outlier = |i: &usize| {
            let alone = || self.window(*i).all(|j| j == *i || !misplaced(j));
            let isolated = || self.is_isolated(*i);
            let impossible = || self.decoding_time_is_impossible(*i) || self.left_a_hole(*i, counts[*i]);
            (misplaced(*i) && (alone() || isolated()))
                || (self.is_suspect(*i, counts[*i]) && isolated() && impossible())
        };
        (0..self.packets.len()).filter(is_outlier).collect()
    }

    /// Counts the packets on one side of a packet that are out of order with it.
    fn out_of_order(&self, i: usize) -> usize {
        let pts = self.packets[i].pts;
        let window = self.window(i);
        let later = self.packets[i + 1..window.end].iter().filter(|p| p.pts < pts).count();
        let earlier = self.packets[window.start..i].iter().filter(|p| p.pts > pts).count();
        later.max(earlier)
    }

    /// A cheap necessary condition of the evidence below.
    fn is_suspect(&self, i: usize, out_of_order: usize) -> bool {
        let PacketTimes { pts, dts, .. } = self.packets[i];
        out_of_order > 0 || dts.is_some_and(|dts| dts != pts)
    }

    fn is_isolated(&self, i: usize) -> bool {
        let far = self.interval.saturating_mul(ISOLATED_INTERVALS).max(self.ticks(ISOLATED_S));
        let pts = self.packets[i].pts;
        let distance = |j: usize| self.packets[j].pts.saturating_sub(pts).saturating_abs();
        self.window(i).filter(|j| *j != i).all(|j| distance(j) > far)
    }

    /// Decoding times never decrease. Without B-frames they are also the presentation times.
    fn decoding_time_is_impossible(&self, i: usize) -> bool {
        let dts = |i: usize| self.packets.get(i).and_then(|p| p.dts);
        let Some(own) = dts(i) else { return false };
        let before = i.checked_sub(1).and_then(dts);
        let decreases = before.is_some_and(|d| d > own) != dts(i + 1).is_some_and(|d| d < own);
        let unequal = self.reordered < MAX_REORDERED && own != self.packets[i].pts;
        decreases || unequal
    }

    /// Whether all times around an out-of-order packet are regular but for one hole of its size.
    fn left_a_hole(&self, i: usize, out_of_order: usize) -> bool {
        let is_near = |gap: i64, intervals: i64| {
            let expected = self.interval.saturating_mul(intervals);
            gap.saturating_sub(expected).saturating_abs() <= self.interval / 4
        };
        let pts = self.sorted_around(i, &[i]);
        // Where the window cuts a group of reordered frames, some of its times are missing.
        let window = self.window(i);
        let from = if window.start > 0 { MAX_REORDERED } else { 0 };
        let to = if window.end < self.packets.len() { MAX_REORDERED } else { 0 };
        let mut holes = 0;
        let regular = pts[from..pts.len().saturating_sub(to).max(from)].windows(2).all(|pair| {
            let gap = pair[1].saturating_sub(pair[0]);
            holes += usize::from(is_near(gap, 2));
            is_near(gap, 1) || is_near(gap, 2)
        });
        out_of_order > 0 && regular && holes == 1
    }

    fn sorted_around(&self, i: usize, without: &[usize]) -> Vec<i64> {
        let window = self.window(i).filter(|j| !without.contains(j));
        let mut pts: Vec<i64> = window.map(|j| self.packets[j].pts).collect();
        pts.sort_unstable();
        pts
    }

    /// Returns a time for every outlier: the middle of the hole that it left, else a free tick beside its neighbours.
    fn places(&self, outliers: &[usize]) -> Vec<(usize, i64)> {
        outliers.iter().map(|i| (*i, self.place(*i, outliers))).collect()
    }

    fn place(&self, i: usize, outliers: &[usize]) -> i64 {
        let window = self.window(i);
        let index = |packet: usize| outliers.partition_point(|outlier| *outlier < packet);
        let near = &outliers[index(window.start)..index(window.end)];
        let pts = self.sorted_around(i, near);
        let (Some(first), Some(last)) = (pts.first(), pts.last()) else { return self.packets[i].pts };
        if i == 0 {
            return first.saturating_sub(self.interval);
        }
        let good = |j: &usize| !near.contains(j);
        let before = (0..i).rev().find(good).map(|j| self.packets[j].pts);
        let after = (i + 1..self.packets.len()).find(good).map(|j| self.packets[j].pts);
        let (Some(before), Some(after)) = (before, after) else { return last.saturating_add(self.interval) };
        let expected = before / 2 + after / 2;
        let center = |pair: &[i64]| pair[0] + pair[1].saturating_sub(pair[0]) / 2;
        let hole =
            |pair: &&[i64]| pair[1].saturating_sub(pair[0]) > self.interval.saturating_add(self.interval / 2);
        let distance = |pair: &&[i64]| center(pair).saturating_sub(expected).saturating_abs();
        // A hole far away has another cause.
        let reach = self.interval.saturating_mul(MAX_REORDERED as i64);
        match pts.windows(2).filter(hole).min_by_key(distance) {
            Some(pair) if distance(&pair) <= reach => center(pair),
            _ => {
                let mut free = expected..expected.saturating_add(2 * WINDOW as i64 + 1);
                free.find(|time| pts.binary_search(time).is_err()).unwrap_or(expected)
            }
        }
    }

    /// Returns the first packet of every part whose times do not continue the part before.
    fn joints(&self, outliers: &[usize]) -> Vec<(usize, RepairKind)> {
        let mut joints = Vec::new();
        let mut outliers = outliers.iter().peekable();
        let (mut last, mut highest) = (None::<PacketTimes>, i64::MIN);
        for (i, packet) in self.packets.iter().enumerate() {
            if outliers.next_if(|outlier| **outlier == i).is_some() {
                continue;
            }
            let kind = last.and_then(|last| self.joint(last, i, highest));
            if let Some(kind) = kind {
                joints.push((i, kind));
                highest = i64::MIN;
            }
            (last, highest) = (Some(*packet), highest.max(packet.pts));
        }
        joints
    }

    fn joint(&self, last: PacketTimes, i: usize, highest: i64) -> Option<RepairKind> {
        let packet = self.packets[i];
        let (from, to) = match (last.dts, packet.dts) {
            (Some(from), Some(to)) => (from, to),
            _ => (last.pts, packet.pts),
        };
        let step = to.saturating_sub(from);
        if self.rules.wrap.is_some() && step > self.ticks(JUMP_S) {
            return Some(RepairKind::Jump);
        }
        let goes_back =
            step < -(self.interval / 2) || last.pts.saturating_sub(packet.pts) > self.interval / 2;
        let following = &self.packets[i..(i + MAX_REORDERED + 1).min(self.packets.len())];
        let stays_back = following.len() > self.reordered && following.iter().all(|p| p.pts < highest);
        let decreases = last.dts.is_some() && packet.dts.is_some() && step < -(self.interval / 2);
        let restarts = if decreases {
            self.rules.wrap.is_some() || following.iter().take(3).all(|p| p.pts < highest)
        } else {
            // Times without B-frames can also go back while decoding times, which a muxer made, do not.
            goes_back && stays_back && self.is_largest_drop(i)
        };
        restarts.then_some(RepairKind::Restart)
    }

    /// Whether times drop more at a packet than at any of the packets after it that could still be reordered.
    fn is_largest_drop(&self, i: usize) -> bool {
        let drop = |j: usize| self.packets[j - 1].pts.saturating_sub(self.packets[j].pts);
        (i + 1..(i + MAX_REORDERED + 1).min(self.packets.len())).all(|j| drop(j) <= drop(i))
    }

    /// Returns the first presentation time of a part and the end of its last frame.
    fn range(&self, part: Range<usize>, shifts: &[i64]) -> (i64, i64) {
        let mut range = (i64::MAX, i64::MIN);
        for i in part {
            let PacketTimes { pts, duration, .. } = self.packets[i];
            let pts = pts.saturating_add(shifts[i]);
            let duration = if duration > 0 { duration } else { self.interval };
            range = (range.0.min(pts), range.1.max(pts.saturating_add(duration)));
        }
        range
    }
}

#[cfg(test)]
mod tests;
