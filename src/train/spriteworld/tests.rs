//! Tests of the guarantees of a world, on a few simple drawings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::family::Family;
use super::words::{plural, with_article};
use super::*;

mod oracle;

const CONCEPTS: [&str; 6] = ["fox", "owl", "sheep", "bus", "key", "unicorn"];
const SPLITS: [Split; 3] = [Split::Train, Split::HeldOutSeeds, Split::HeldOutCombinations];

/// Writes two icon sets of simple shapes as files into `folder`.
fn icon_sets(folder: &Path) -> Vec<std::path::PathBuf> {
    let shapes = [
        "<circle cx='16' cy='16' r='14' fill='#c33'/>",
        "<rect x='2' y='8' width='28' height='16' fill='#3a3'/>",
        "<path d='M16 2 L30 30 L2 30 Z' fill='#36c'/>",
        "<path d='M2 2 H30 V10 H10 V30 H2 Z' fill='#c80'/>",
        "<ellipse cx='16' cy='16' rx='6' ry='14' fill='#808'/>",
        "<path d='M2 16 L16 2 L30 16 L16 12 Z' fill='#088'/>",
    ];
    let set = |name: &str, offset: usize| {
        let icon = |(i, concept): (usize, &&str)| {
            (concept.to_string(), serde_json::json!({ "body": shapes[(i + offset) % shapes.len()] }))
        };
        let icons: serde_json::Map<_, _> = CONCEPTS.iter().enumerate().map(icon).collect();
        let path = folder.join(format!("{name}.json"));
        let json = serde_json::json!({ "prefix": name, "icons": icons, "width": 32, "height": 32 });
        std::fs::write(&path, json.to_string()).unwrap();
        path
    };
    vec![set("round", 0), set("flat", 1)]
}

fn world_of(families: &[Family]) -> World {
    let folder = tempfile::tempdir().unwrap();
    let icons = icon_sets(folder.path());
    let config = WorldConfig { icons, families: families.to_vec(), seed: 7, ..WorldConfig::default() };
    World::new(config).unwrap()
}

#[test]
fn same_index_gives_same_clip() {
    let (one, two) = (world_of(&[]), world_of(&[]));
    for split in SPLITS {
        for index in 0..8 {
            let (a, b) = (one.clip(split, index), two.clip(split, index));
            assert_eq!(a.scene(), b.scene());
            assert_eq!(a.frames(), b.frames());
            assert_eq!(a.questions(), b.questions());
            assert_eq!(a.near_misses(), b.near_misses());
            assert_eq!(a.frames()[1], a.frame_at(1.0));
            assert_eq!(a.frames().len(), a.scene().seconds);
        }
    }
    assert_ne!(one.clip(Split::Train, 0).scene(), one.clip(Split::Train, 1).scene());
    assert_ne!(one.clip(Split::Train, 0).scene(), one.clip(Split::HeldOutSeeds, 0).scene());
}

#[test]
fn held_out_combinations_are_in_no_other_split() {
    let world = world_of(&[]);
    let pairs = |split, index| {
        let clip = world.clip(split, index);
        clip.scene().sprites.iter().map(|s| (s.concept, s.motion)).collect::<BTreeSet<_>>()
    };
    let of = |split| (0..3000).flat_map(|i| pairs(split, i)).collect::<BTreeSet<_>>();
    let known: BTreeSet<_> = of(Split::Train).union(&of(Split::HeldOutSeeds)).copied().collect();
    for index in 0..1000 {
        let held = pairs(Split::HeldOutCombinations, index);
        assert!(held.iter().any(|pair| !known.contains(pair)), "clip {index} has no held-out pair: {held:?}");
        let episode = world.naming_episode(Split::Train, index, 2);
        for clip in episode.support.iter().map(|(clip, _)| clip).chain([&episode.query]) {
            assert!(clip.scene().sprites.iter().all(|s| known.contains(&(s.concept, s.motion))));
        }
    }
    // Every pair is in one of the two sets.
    let held = of(Split::HeldOutCombinations);
    for concept in 0..CONCEPTS.len() {
        assert!(Motion::ALL.iter().all(|m| known.union(&held).any(|pair| *pair == (concept, *m))));
    }
}

#[test]
fn answers_agree_with_geometry() {
    let world = world_of(&[]);
    for split in SPLITS {
        for index in 0..1500 {
            let clips = [world.clip(split, index), world.image_clip(split, index)];
            for clip in clips {
                assert!(!clip.questions().is_empty());
                for question in clip.questions() {
                    assert!(question.choices.contains(&question.answer), "{question:?}");
                    let distinct: BTreeSet<_> = question.choices.iter().collect();
                    assert_eq!(distinct.len(), question.choices.len(), "{question:?}");
                    let expected = oracle::answer(&question, clip.scene(), world.concepts());
                    assert_eq!(question.answer, expected, "{question:?} of {:?}", clip.scene().fact);
                }
            }
        }
    }
}

/// No answer is more than 1.5 times as frequent as in a random choice.
#[test]
fn answers_are_balanced() {
    let world = world_of(&[]);
    let mut given: BTreeMap<(QuestionKind, String), [f64; 2]> = BTreeMap::new();
    let questions = (0..2000).flat_map(|index| world.clip(Split::Train, index).questions());
    // The other kinds ask the same questions with the other answers.
    for question in questions.filter(|question| question.kind != QuestionKind::Absent) {
        for choice in &question.choices {
            let share = 1.0 / question.choices.len() as f64;
            given.entry((question.kind, choice.clone())).or_default()[1] += share;
        }
        given.entry((question.kind, question.answer.clone())).or_default()[0] += 1.0;
    }
    for (answer, [times, fair]) in given {
        assert!(fair > 20.0, "{answer:?} is hardly ever a choice");
        assert!(times < 1.5 * fair && times > fair / 1.5, "{answer:?}: {times} times, fair are {fair}");
    }
}

/// Single frames of a motion and of its reverse have the same mean place and size, within chance.
#[test]
fn single_frame_does_not_reveal_direction() {
    let world = world_of(&[Family::Single, Family::Each, Family::Passing]);
    let mut poses: BTreeMap<Motion, [Vec<f64>; 3]> = BTreeMap::new();
    for index in 0..12_000 {
        let clip = world.clip(Split::Train, index);
        let scene = clip.scene();
        for sprite in scene.sprites.iter().filter(|s| s.motion != Motion::Still) {
            // One frame per clip, because the frames of one clip are not independent.
            let second = (index as usize % scene.seconds) as f64;
            let (_, pose) = scene.visible_at(second).find(|(s, _)| *s == sprite).unwrap();
            let all = poses.entry(sprite.motion).or_default();
            all.iter_mut().zip([pose.x, pose.y, pose.side]).for_each(|(v, x)| v.push(x));
        }
    }
    for motion in [Motion::Left, Motion::Up, Motion::Growing] {
        for (a, b) in poses[&motion].iter().zip(&poses[&motion.backwards()]) {
            let ((mean_a, error_a), (mean_b, error_b)) = (mean(a), mean(b));
            let error = (error_a + error_b).sqrt();
            assert!((mean_a - mean_b).abs() < 4.0 * error, "{motion:?}: {mean_a} and {mean_b}, ± {error}");
        }
    }
}

/// Returns the mean and its squared standard error.
fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n * n))
}

#[test]
fn first_and_last_sprite_are_visible_equally_long() {
    let world = world_of(&[Family::Order]);
    let longer = (0..4000).map(|index| {
        let clip = world.clip(Split::Train, index);
        let Fact::Order { first, then } = clip.scene().fact else { panic!("another family") };
        let frames = |concept| oracle::seconds_of(clip.scene(), concept).len() as f64;
        assert!(frames(first) > 0.0 && frames(then) > 0.0);
        frames(first) - frames(then)
    });
    let (mean, error) = mean(&longer.collect::<Vec<_>>());
    assert!(mean.abs() < 4.0 * error.sqrt(), "{mean} ± {}", error.sqrt());
}

#[test]
fn motion_is_visible_and_sprites_stay_in_the_frame() {
    let world = world_of(&[]);
    for index in 0..3000 {
        let clip = world.clip(Split::Train, index);
        let scene = clip.scene();
        let last = (scene.seconds - 1) as f64;
        for second in 0..scene.seconds {
            for (sprite, pose) in scene.visible_at(second as f64) {
                let half = pose.side * scene.shorter_side() / 2.0;
                for (centre, length) in [(pose.x, scene.width), (pose.y, scene.height)] {
                    let (centre, length) = (centre * f64::from(length), f64::from(length));
                    assert!(centre - half > -0.5 && centre + half < length + 0.5, "clip {index}: {sprite:?}");
                }
                assert!(half * 2.0 >= 0.1 * scene.shorter_side());
            }
        }
        let ends = scene.visible_at(0.0).zip(scene.visible_at(last));
        for ((sprite, a), (same, b)) in ends.filter(|(a, _)| a.0.motion != Motion::Still) {
            assert_eq!(sprite, same);
            let way = [(b.x - a.x).abs(), (b.y - a.y).abs()].into_iter().fold(0.0, f64::max);
            let grown = (b.side / a.side).max(a.side / b.side);
            let rotated = (b.angle - a.angle).abs();
            assert!(way >= 0.35 || grown > 1.6 || rotated > 80.0, "clip {index}: {sprite:?}");
        }
    }
}

#[test]
fn sprites_overlap_only_when_one_passes() {
    let world = world_of(&[]);
    let mut visible_order = Vec::new();
    for index in 0..4000 {
        let clip = world.clip(Split::Train, index);
        let scene = clip.scene();
        let hidden: Vec<f64> =
            (0..scene.seconds).map(|s| overlap::most_hidden(clip.drawings, scene, s as f64)).collect();
        let most = hidden.iter().copied().fold(0.0, f64::max);
        if !matches!(scene.fact, Fact::Passes { .. }) {
            assert!(most == 0.0, "clip {index}, {:?}: {hidden:?}", scene.fact);
            continue;
        }
        assert!(most < 0.9, "clip {index}: {hidden:?}");
        assert!(
            hidden.iter().filter(|part| **part < 0.5).count() * 2 >= hidden.len(),
            "clip {index}: {hidden:?}"
        );
        visible_order.push(most > 0.1);
    }
    let unclear = visible_order.iter().filter(|visible| !**visible).count();
    assert!(
        unclear * 100 < visible_order.len(),
        "in {unclear} of {} clips the order of the sprites is not visible",
        visible_order.len()
    );
}

#[test]
fn near_misses_are_not_captions() {
    let world = world_of(&[]);
    for index in 0..1000 {
        for clip in [world.clip(Split::Train, index), world.image_clip(Split::Train, index)] {
            let (captions, misses) = (clip.captions(), clip.near_misses());
            assert!(captions.len() >= 3 && misses.len() >= captions.len());
            assert_eq!(misses.len() % captions.len(), 0);
            for miss in &misses {
                assert!(!captions.contains(miss), "{miss}");
            }
            for text in captions.iter().chain(&misses) {
                assert!(text.split(' ').count() <= 16 && text.ends_with('.'), "{text}");
                assert!(text.starts_with(char::is_uppercase), "{text}");
            }
        }
    }
}

#[test]
fn episode_shows_both_concepts_and_asks_for_one() {
    let world = world_of(&[]);
    let mut firsts = 0;
    for index in 0..400 {
        let shots = index as usize % 5;
        let episode = world.naming_episode(Split::Train, index, shots);
        assert_ne!(episode.words[0], episode.words[1]);
        for (which, meaning) in episode.meanings.into_iter().enumerate() {
            let examples = episode.support.iter().filter(|(_, word)| *word == which);
            let shown: Vec<_> = examples.map(|(clip, _)| clip.scene().fact.concepts()).collect();
            assert_eq!(shown, vec![vec![meaning]; shots]);
        }
        let (asked, words) = (episode.asked, episode.words);
        assert_eq!(episode.query.scene().fact.concepts(), [episode.meanings[asked]]);
        firsts += usize::from(asked == 0);
        let exchanged = episode.exchanged();
        assert_eq!((exchanged.words[asked], exchanged.asked), (words[1 - asked], asked));
    }
    assert!((140..260).contains(&firsts), "{firsts} of 400 answers are the first word");
}

/// Neither the invented words of held-out episodes nor their pictures occur in training.
#[test]
fn held_out_episodes_share_nothing_with_training() {
    let world = world_of(&[]);
    let words =
        |split| (0..300).flat_map(|i| world.naming_episode(split, i, 0).words).collect::<BTreeSet<_>>();
    let (trained, held_out) = (words(Split::Train), words(Split::HeldOutSeeds));
    assert!(trained.len() > 20 && held_out.len() > 8 && trained.is_disjoint(&held_out));
    let hash = |clip: &Clip| crate::digest::sha256(&clip.frame_at(0.0));
    let pictures: BTreeSet<_> = (0..200).map(|i| hash(&world.clip(Split::Train, i))).collect();
    for index in 0..20 {
        let episode = world.naming_episode(Split::HeldOutSeeds, index, 2);
        for clip in episode.support.iter().map(|(clip, _)| clip).chain([&episode.query]) {
            assert!(!pictures.contains(&hash(clip)));
        }
    }
}

/// Augmentation applies to training clips only, and changes neither captions nor questions.
#[test]
fn augmentation_changes_the_pixels_of_training_clips_only() {
    let folder = tempfile::tempdir().unwrap();
    let plain = WorldConfig { icons: icon_sets(folder.path()), seed: 7, ..WorldConfig::default() };
    let augmented = World::new(WorldConfig { augment: 0.7, ..plain.clone() }).unwrap();
    let plain = World::new(plain).unwrap();
    let mut changed = 0;
    for index in 0..24 {
        for split in SPLITS {
            let (a, b) = (plain.clip(split, index), augmented.clip(split, index));
            assert_eq!((a.captions(), a.questions()), (b.captions(), b.questions()));
            let same = a.frame_at(0.0) == b.frame_at(0.0);
            assert!(same || split == Split::Train, "{split:?} {index}");
            changed += usize::from(!same);
        }
        let image = augmented.image_clip(Split::Train, index);
        assert_eq!(image.frame_at(0.0), augmented.image_clip(Split::Train, index).frame_at(0.0));
    }
    assert!(changed > 16, "{changed} of 24 clips are changed");
}

#[test]
fn forms_articles_and_plurals() {
    for (concept, one, many) in [
        ("flamingo", "a flamingo", "flamingos"),
        ("owl", "an owl", "owls"),
        ("unicorn", "a unicorn", "unicorns"),
        ("umbrella", "an umbrella", "umbrellas"),
        ("ewe", "a ewe", "ewes"),
        ("hourglass", "an hourglass", "hourglasses"),
        ("fox", "a fox", "foxes"),
        ("bus", "a bus", "buses"),
        ("witch", "a witch", "witches"),
        ("butterfly", "a butterfly", "butterflies"),
        ("monkey", "a monkey", "monkeys"),
        ("potato", "a potato", "potatoes"),
        ("avocado", "an avocado", "avocados"),
        ("sheep", "a sheep", "sheep"),
        ("tropical-fish", "a tropical fish", "tropical fish"),
        ("mouse", "a mouse", "mice"),
        ("wolf", "a wolf", "wolves"),
        ("giraffe", "a giraffe", "giraffes"),
        ("toothbrush", "a toothbrush", "toothbrushes"),
        ("grapes", "some grapes", "grapes"),
    ] {
        assert_eq!((with_article(concept).as_str(), plural(concept).as_str()), (one, many));
    }
}

#[test]
fn errors_name_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let icons = icon_sets(folder.path());
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let bodies = |body: &str| format!("{{\"icons\": {{\"fox\": {{\"body\": \"{body}\"}}}}}}");
    let config = |icons: &[_], concepts: &[&str]| WorldConfig {
        icons: icons.to_vec(),
        concepts: concepts.iter().map(|c| c.to_string()).collect(),
        ..WorldConfig::default()
    };
    let four = ["fox", "owl", "key", "bus"];
    let few = WorldConfig { frames: (2, 8), ..config(&icons, &[]) };
    for (config, words) in [
        (config(&[folder.path().join("absent.json")], &[]), &["absent.json", "cannot be read"][..]),
        (config(&[file("a.json", "{\"icons\": 3}")], &[]), &["a.json", "not Iconify JSON"]),
        (
            config(&[file("b.json", &bodies("<g")), icons[0].clone()], &four),
            &["b.json", "`fox`", "not an SVG body"],
        ),
        (
            config(&[file("c.json", &bodies("<g/>")), icons[0].clone()], &four),
            &["c.json", "`fox`", "draws nothing"],
        ),
        (config(&icons, &["fox", "dodo"]), &["`dodo`", "none of the icon sets", "round.json"]),
        (config(&icons, &["fox", "owl", "fox"]), &["`fox`", "twice"]),
        (config(&icons, &["fox", "owl", "key"]), &["at least 4", "there are 3"]),
        (config(&[], &[]), &["icons", "at least one"]),
        (few, &["frames", "(2, 8)", "from 3"]),
    ] {
        let message =
            World::new(config.clone()).err().unwrap_or_else(|| panic!("{config:?} was accepted")).to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
    assert!(serde_json::from_str::<WorldConfig>("{\"colour\": 1}").is_err());
}
