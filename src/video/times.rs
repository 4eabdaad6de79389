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
mod tests {
    use super::*;

    /// Frames of 40 ticks, 25 per second. Parses one packet per word in decoding order: the number of a frame, with
    /// `@` and a decoding time, also a frame number, if it differs.
    fn stream(text: &str) -> Vec<PacketTimes> {
        let ticks = |frame: &str| (frame.parse::<f64>().unwrap() * 40.0) as i64;
        let packet = |word: &str| {
            let (pts, dts) = word.split_once('@').unwrap_or((word, word));
            PacketTimes { pts: ticks(pts), dts: Some(ticks(dts)), duration: 40 }
        };
        text.split_whitespace().map(packet).collect()
    }

    fn numbers(frames: impl IntoIterator<Item = i64>) -> String {
        frames.into_iter().map(|n| n.to_string()).collect::<Vec<_>>().join(" ")
    }

    /// Compares the repaired times, as frame numbers relative to the first frame, and the repairs.
    fn check_packets(
        name: &str,
        discontinuous: bool,
        packets: &[PacketTimes],
        expected: &str,
        kinds: &[RepairKind],
    ) {
        let wrap = discontinuous.then_some(WRAP);
        let Repairs { shifts, repairs } = repair(packets, TimeRules { rate: 1000.0, wrap });
        let shift = |i: usize| shifts.get(i).copied().unwrap_or(0);
        let pts: Vec<i64> = packets.iter().enumerate().map(|(i, p)| p.pts + shift(i)).collect();
        let first = pts.iter().min().copied().unwrap_or(0);
        assert_eq!(numbers(pts.iter().map(|t| (t - first) / 40)), expected, "{name}");
        assert_eq!(repairs.iter().map(|r| r.kind).collect::<Vec<_>>(), kinds, "{name}");
    }

    fn check(name: &str, discontinuous: bool, text: &str, expected: &str, kinds: &[RepairKind]) {
        check_packets(name, discontinuous, &stream(text), expected, kinds);
    }

    fn count(from: i64, to: i64) -> String {
        numbers(from..to)
    }

    use RepairKind::{Jump, Outlier, Restart};

    /// Ticks of 100,000 seconds.
    const WRAP: i64 = 100_000_000;

    #[test]
    fn true_times_are_kept() {
        for discontinuous in [false, true] {
            let kept =
                |name: &str, text: &str, expected: &str| check(name, discontinuous, text, expected, &[]);
            kept("constant", &count(7, 60), &count(0, 53));
            kept("B-frames", "0@-2 4@-1 2@0 1@1 3@2 8@3 6@4 5@5 7@6", "0 4 2 1 3 8 6 5 7");
            kept("one frame", "9", "0");
            kept("no frames", "", "");
            kept("pauses of 9 s", "0 1 2 227 228 452 453", "0 1 2 227 228 452 453");
            kept("the last frame after a pause", "0 1 2 3 240", "0 1 2 3 240");
        }
        check("a pause of an hour", false, "0 1 2 3 90003 90004", "0 1 2 3 90003 90004", &[]);
        let reordered = "0@-4 1@0 5@1 90003@5 6@6 90004@90003";
        check("B-frames before a pause", false, reordered, "0 1 5 90003 6 90004", &[]);
        let slides = "0@-3000 1500@0 3000@1500 3001@3000 9000@3001";
        check("delayed by a pause", false, slides, "0 1500 3000 3001 9000", &[]);
    }

    #[test]
    fn outliers_are_placed() {
        let ahead = [count(0, 20), "270000".into(), count(21, 50)].join(" ");
        let behind = [count(100, 120), "-90000".into(), count(121, 150)].join(" ");
        for discontinuous in [false, true] {
            let outlier = |name: &str, text: &str, expected: &str| {
                check(name, discontinuous, text, expected, &[Outlier])
            };
            outlier("3 h ahead", &ahead, &count(0, 50));
            outlier("1 h behind", &behind, &count(0, 50));
            outlier("the first, 2 s ahead", &format!("50 {}", count(1, 40)), &count(0, 40));
            outlier("in the middle, 2 s ahead", "0 1 2 53 4 5 6 7 8", &count(0, 9));
            outlier("only the presentation time", "0 1 2 90003@3 4 5 6", &count(0, 7));
            outlier("the last presentation time", "0 1 2 3 4 5 90003@6", &count(0, 7));
        }
    }

    #[test]
    fn outliers_among_reordered_frames_are_placed() {
        let group = |n: i64| format!("{}@{} {}@{} {}@{}", n + 3, n, n + 1, n + 1, n + 2, n + 2);
        let groups: Vec<String> = (0..20).map(|g| group(g * 3)).collect();
        let text = format!("0@-1 {}", groups.join(" "));
        let expected = numbers(stream(&text).iter().map(|p| p.pts / 40));
        for (name, packet) in [("an anchor", "30@27"), ("a B-frame", "28@28"), ("near the end", "58@58")] {
            let dts = packet.split_once('@').unwrap().1;
            let damaged = text.replace(&format!(" {packet}"), &format!(" 95000@{dts}"));
            assert_ne!(damaged, text);
            check(name, false, &damaged, &expected, &[Outlier]);
        }
    }

    #[test]
    fn parts_are_joined() {
        let twice = |from: i64, to: i64| format!("{} {}", count(from, to), count(from, to));
        for discontinuous in [false, true] {
            check("a restart", discontinuous, &twice(30, 60), &count(0, 60), &[Restart]);
            let overlap = format!("{} {}", count(0, 40), count(35, 75));
            check("an overlap", discontinuous, &overlap, &count(0, 80), &[Restart]);
            let three = format!("{} {}", twice(0, 30), count(5, 25));
            check("two restarts", discontinuous, &three, &count(0, 80), &[Restart, Restart]);
        }
        let jump = format!("{} {}", count(0, 30), count(90_030, 90_060));
        check("a jump", true, &jump, &count(0, 60), &[Jump]);
        check("no jump", false, "0 1 2 9002 9003", "0 1 2 9002 9003", &[]);
        let behind = format!("-90000 {}", count(1, 30));
        check("a first frame an hour behind", true, &behind, &count(0, 30), &[Jump]);
    }

    #[test]
    fn parts_with_reordered_frames_are_joined() {
        let part = |from: i64| {
            let frames = [(0, -2), (3, -1), (1, 0), (2, 1), (6, 2), (4, 3), (5, 4)];
            frames.map(|(pts, dts)| format!("{}@{}", pts + from, dts + from)).join(" ")
        };
        let expected = "0 3 1 2 6 4 5 7 10 8 9 13 11 12";
        check("a restart", true, &format!("{} {}", part(50), part(4)), expected, &[Restart]);
        check("a jump", true, &format!("{} {}", part(0), part(900)), expected, &[Jump]);
    }

    #[test]
    fn steps_back_that_look_like_wraps_are_named() {
        // 2,500,000 frames are a wrap.
        let text = format!("{} {}", count(90_000, 90_030), count(2_500_010, 2_500_040));
        check("a restart", true, &text, &count(0, 60), &[Restart]);
        let packets = stream(&text);
        let repairs = repair(&packets, TimeRules { rate: 1000.0, wrap: Some(WRAP) }).repairs;
        assert_eq!(repairs, [Repair { packet: 30, kind: Restart, by: (90_030 - 10) * 40 }]);
    }

    #[test]
    fn muxed_restart_is_found_by_presentation_times() {
        let second: Vec<String> = (0..30).map(|i| format!("{i}@{}", 30 + i)).collect();
        let text = format!("{} {}", count(0, 30), second.join(" "));
        check("made decoding times", false, &text, &count(0, 60), &[Restart]);
    }

    #[test]
    fn extreme_times_do_not_overflow() {
        let extremes = [i64::MIN, i64::MAX, 0, -1, i64::MAX - 1, i64::MIN + 1, 40, i64::MAX, i64::MIN];
        for discontinuous in [false, true] {
            for step in 1..7 {
                let packet = |i: usize| PacketTimes {
                    pts: extremes[i * step % extremes.len()],
                    dts: (i % 3 > 0).then(|| extremes[(i * step + 1) % extremes.len()]),
                    duration: extremes[(i + step) % extremes.len()],
                };
                let packets: Vec<PacketTimes> = (0..60).map(packet).collect();
                let wrap = discontinuous.then_some(WRAP);
                let repairs = repair(&packets, TimeRules { rate: 1000.0, wrap });
                assert!(repairs.shifts.is_empty() || repairs.shifts.len() == packets.len());
            }
        }
    }
}
