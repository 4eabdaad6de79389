//! Tables of cases of the repair of times.

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
        let kept = |name: &str, text: &str, expected: &str| check(name, discontinuous, text, expected, &[]);
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
        let outlier =
            |name: &str, text: &str, expected: &str| check(name, discontinuous, text, expected, &[Outlier]);
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
fn steps_back_taken_for_wraps_are_named() {
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
                dts: (!i.is_multiple_of(3)).then(|| extremes[(i * step + 1) % extremes.len()]),
                duration: extremes[(i + step) % extremes.len()],
            };
            let packets: Vec<PacketTimes> = (0..60).map(packet).collect();
            let wrap = discontinuous.then_some(WRAP);
            let repairs = repair(&packets, TimeRules { rate: 1000.0, wrap });
            assert!(repairs.shifts.is_empty() || repairs.shifts.len() == packets.len());
        }
    }
}
