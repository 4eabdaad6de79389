use super::*;

const M: u32 = 7;
const FORGET: u32 = 9;

fn rule(visible: VisibleMedia, attention: MediaAttention, mlp: bool) -> MediaAttentionRule {
    let config = MediaAttentionConfig { visible, without_media: WithoutMedia { attention, mlp } };
    MediaAttentionRule { media_token: M, forget_token: Some(FORGET), config }
}

/// Position by position: the visible media, or a letter for the treatment without one (z: zero, u: unmasked, capital: the
/// feed-forward is off).
fn check(rule: &MediaAttentionRule, chunks: &[&[u32]], expected: &str) {
    let (mut cursor, mut spans, mut n) = (MediaCursor::default(), Vec::new(), 3);
    for ids in chunks {
        cursor.advance(ids, rule, 5, n, &mut spans);
        n += ids.len();
    }
    assert!(spans.iter().all(|span| span.row == 5));
    let found = (3..n).map(|i| {
        let mut covering = spans.iter().filter(|span| span.positions.contains(&i));
        let span = covering.next();
        assert!(covering.next().is_none(), "position {i} is in two spans");
        match span {
            None => "z".to_string(),
            Some(MediaSpan { attention: MediaAttention::On, media, mlp: true, .. }) => {
                media.clone().map(|m| m.to_string()).collect()
            }
            Some(MediaSpan { attention: MediaAttention::Zero, mlp: false, .. }) => "Z".into(),
            Some(MediaSpan { attention: MediaAttention::Unmasked, mlp: true, .. }) => "u".into(),
            Some(MediaSpan { attention: MediaAttention::Unmasked, mlp: false, .. }) => "U".into(),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(found.collect::<Vec<_>>().join(" "), expected, "{rule:?} {chunks:?}");
}

#[test]
fn last_medium_is_visible() {
    let rule = rule(VisibleMedia::Last, MediaAttention::Zero, true);
    check(&rule, &[&[1, 2]], "z z");
    check(&rule, &[&[M, 1, 2]], "0 0 0");
    check(&rule, &[&[1, M, 2, M, M, 3]], "z 0 0 1 2 2");
    check(&rule, &[&[M, 1, FORGET, 2, M, 3]], "0 0 0 z 1 1");
    check(&rule, &[&[M, FORGET, M, FORGET], &[2], &[3]], "0 0 1 1 z z");
}

#[test]
fn decode_step_continues_after_prompt() {
    let last = rule(VisibleMedia::Last, MediaAttention::Zero, true);
    check(&last, &[&[M, 1], &[2], &[3]], "0 0 0 0");
    check(&last, &[&[M, 1, M], &[2]], "0 0 1 1");
    let group = rule(VisibleMedia::AdjacentGroup, MediaAttention::Zero, true);
    check(&group, &[&[1, M], &[M, 2], &[3]], "z 0 01 01 01");
}

#[test]
fn all_media_before_are_visible() {
    let rule = rule(VisibleMedia::All, MediaAttention::Zero, true);
    check(&rule, &[&[1, M, 2, M, M, 3]], "z 0 0 01 012 012");
    check(&rule, &[&[M, M, FORGET, 2, M, 3]], "0 01 01 z 2 2");
}

#[test]
fn adjacent_media_form_group() {
    let rule = rule(VisibleMedia::AdjacentGroup, MediaAttention::Zero, true);
    check(&rule, &[&[M, 1, M, M, 2, M]], "0 0 1 12 12 3");
    check(&rule, &[&[M, M, FORGET, 2, M, M, 1]], "0 01 01 z 2 23 23");
}

#[test]
fn positions_without_media_follow_the_family() {
    let meta = rule(VisibleMedia::AdjacentGroup, MediaAttention::Zero, false);
    check(&meta, &[&[1, 2, M, 3]], "Z Z 0 0");
    let hugging_face = rule(VisibleMedia::AdjacentGroup, MediaAttention::Unmasked, false);
    check(&hugging_face, &[&[1, M, 3, FORGET, 4]], "U 0 0 0 U");
    check(&rule(VisibleMedia::Last, MediaAttention::Unmasked, true), &[&[1, M]], "u 0");
}

#[test]
fn equal_positions_are_one_span() {
    let rule = rule(VisibleMedia::Last, MediaAttention::Zero, true);
    let mut spans = Vec::new();
    MediaCursor::default().advance(&[1, M, 2, 3, M, 4], &rule, 0, 10, &mut spans);
    let found: Vec<_> = spans.into_iter().map(|span| (span.positions, span.media)).collect();
    assert_eq!(found, [(11..14, 0..1), (14..16, 1..2)]);
}

#[test]
fn rule_rejects_unknown_fields_and_impossible_values() {
    let read = |text: &str| {
        let config: MediaAttentionConfig = serde_json::from_str(text).map_err(|e| e.to_string())?;
        config.check().map(|()| config)
    };
    assert_eq!(read("{}").unwrap(), MediaAttentionConfig::default());
    let mllama =
        read(r#"{"visible": "adjacent_group", "without_media": {"attention": "unmasked", "mlp": false}}"#);
    let without_media = WithoutMedia { attention: MediaAttention::Unmasked, mlp: false };
    assert_eq!(mllama.unwrap(), MediaAttentionConfig { visible: VisibleMedia::AdjacentGroup, without_media });
    for (text, expected) in [
        (r#"{"visibility": "last"}"#, "unknown field `visibility`"),
        (r#"{"visible": "first"}"#, "unknown variant `first`"),
        (r#"{"without_media": {"attention": "on"}}"#, "media_attention.without_media.attention is `on`"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
