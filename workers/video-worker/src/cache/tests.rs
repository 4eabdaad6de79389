//! Tests of the cache.

use bytes::Bytes;
use flamingo::video::{FrameSampling, Orientation, VideoInfo, Warning};
use inference::analysis::AnalysisSpec;
use inference::encoded_video::{EncodedWindow, VisualTokens};
use jobs::store::StoreSettings;

use super::format::{parse, write};
use super::*;

fn example(windows: usize) -> EncodedVideo {
    let info = VideoInfo {
        container: "mov".into(),
        codec: "h264".into(),
        width: 320,
        height: 240,
        orientation: Orientation::default(),
        duration: 7.5,
        frames: 75,
        average_fps: 10.0,
        start_pts: -0.1,
        transfer: Some("bt709".into()),
    };
    let window = |i: usize| EncodedWindow {
        start: i as f64,
        end: i as f64 + 1.0,
        frame_times: vec![i as f64, i as f64 + 0.1 + 0.2],
        tokens: VisualTokens { shape: (2, 3), values: (0..6).map(|v| (v + i) as f32 / 7.0).collect() },
        features: vec![0.5, -(i as f32)],
        visible: (i % 2 == 1).then_some(1),
    };
    EncodedVideo { info, warnings: vec![Warning::MissingPts], windows: (0..windows).map(window).collect() }
}

#[test]
fn entry_round_trips() {
    for windows in [1, 5] {
        let video = example(windows);
        assert_eq!(parse(&write(&video).unwrap()).unwrap(), video);
    }
    let good = write(&example(2)).unwrap();
    for broken in [&good[..0], &good[..40], &good[..good.len() - 1], b"not safetensors"] {
        assert!(parse(broken).is_err());
    }
    let mut invalid = example(2);
    invalid.windows[1].tokens.values[3] = f32::NAN;
    assert_eq!(parse(&write(&invalid).unwrap()).unwrap_err(), "a value is not finite");
    let mut invalid = example(2);
    invalid.windows[0].visible = Some(3);
    assert!(parse(&write(&invalid).unwrap()).is_err(), "more visible tokens than tokens");
    let mut without = example(2);
    without.windows.iter_mut().for_each(|window| window.features.clear());
    assert!(parse(&write(&without).unwrap()).is_err(), "no vision features");
    assert!(parse(&write(&example(0)).unwrap_or_default()).is_err(), "no window");
}

#[test]
fn key_covers_all_inputs_of_visual_tokens_only() {
    let cache = |revision: &str| VisualTokenCache::new(revision.into(), 1 << 20, None);
    let content = |text: &str| Content { sha256: text.into(), bytes: 1 };
    let base = cache("model").key(&content("a"), &AnalysisSpec::default());
    let other_question = AnalysisSpec { tasks: vec![], ..AnalysisSpec::default() };
    assert_eq!(cache("model").key(&content("a"), &other_question), base);
    let others = [
        cache("model 2").key(&content("a"), &AnalysisSpec::default()),
        cache("model").key(&content("b"), &AnalysisSpec::default()),
        cache("model").key(&content("a"), &AnalysisSpec { window: Some(1.0), ..AnalysisSpec::default() }),
        cache("model").key(&content("a"), &AnalysisSpec { max_frames: 9, ..AnalysisSpec::default() }),
        cache("model").key(&content("a"), &AnalysisSpec { long: true, ..AnalysisSpec::default() }),
        cache("model").key(
            &content("a"),
            &AnalysisSpec { sampling: FrameSampling::fps(2.0), ..AnalysisSpec::default() },
        ),
    ];
    assert!(others.iter().all(|key| *key != base));
}

#[tokio::test]
async fn finds_entries_in_memory_and_store() {
    let store = Store::open("memory://", &StoreSettings::default()).unwrap();
    let first = VisualTokenCache::new("m".into(), 1 << 20, Some(store.clone()));
    assert_eq!(first.get("key").await, None);
    first.put("key", example(3)).await;
    assert_eq!(*first.get("key").await.unwrap(), example(3));
    let second = VisualTokenCache::new("m".into(), 1 << 20, Some(store.clone()));
    assert_eq!(*second.get("key").await.unwrap(), example(3), "another worker");
    store.put(&store_key("invalid"), Bytes::from_static(b"not an entry")).await.unwrap();
    assert_eq!(second.get("invalid").await, None);
    let off = VisualTokenCache::new("m".into(), 0, None);
    off.put("key", example(1)).await;
    assert!(!off.is_enabled() && off.get("key").await.is_none());
}

#[test]
fn memory_stays_within_budget() {
    let one = example(1).bytes() as u64;
    let cache = VisualTokenCache::new("m".into(), one * 10, None);
    for i in 0..100 {
        cache.insert(&format!("{i}"), &Arc::new(example(1)));
    }
    let memory = cache.memory.as_ref().unwrap();
    assert!(
        memory.weight() <= one * 10 && memory.len() >= 5,
        "{} videos, {} bytes",
        memory.len(),
        memory.weight()
    );
}
