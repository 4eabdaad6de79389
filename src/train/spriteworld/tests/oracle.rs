//! Answers from the visible sprites at whole seconds, without using the fact of the scene.

use super::super::scene::Pose;
use super::super::{Question, QuestionKind, Scene};

/// The seconds at which a concept is visible.
pub fn seconds_of(scene: &Scene, concept: usize) -> Vec<usize> {
    (0..scene.seconds)
        .filter(|s| scene.visible_at(*s as f64).any(|(sprite, _)| sprite.concept == concept))
        .collect()
}

/// Derives the answer from the frames.
pub fn answer(question: &Question, scene: &Scene, concepts: &[String]) -> String {
    let text = question.question.trim_end_matches(['?', '.']);
    let words: Vec<&str> = text.split([' ', ',']).collect();
    let plural = |concept: &String| super::super::words::plural(concept);
    let mut named: Vec<(usize, usize)> = Vec::new();
    for (i, concept) in concepts.iter().enumerate() {
        let at = words.iter().position(|word| word == concept || *word == plural(concept));
        named.extend(at.map(|at| (at, i)));
    }
    named.sort();
    let named: Vec<usize> = named.into_iter().map(|(_, concept)| concept).collect();
    let only = |fits: &dyn Fn(usize) -> bool| {
        let fitting: Vec<_> = (0..concepts.len()).filter(|c| present(scene, *c) && fits(*c)).collect();
        assert_eq!(fitting.len(), 1, "{text} is not certain");
        concepts[fitting[0]].clone()
    };
    match question.kind {
        QuestionKind::HowMany => {
            let count = scene.visible_at(0.0).filter(|(sprite, _)| sprite.concept == named[0]).count();
            ["one", "two", "three", "four"][count - 1].into()
        }
        QuestionKind::IsThere => if present(scene, named[0]) { "yes" } else { "no" }.into(),
        QuestionKind::When => moment(scene, named[0]).into(),
        QuestionKind::Absent => {
            assert!(!present(scene, named[0]), "{text}: it is there");
            format!("there is no {}", concepts[named[0]])
        }
        QuestionKind::FirstOf if text.contains("first") => only(&|c| seconds_of(scene, c)[0] == 0),
        QuestionKind::FirstOf => only(&|c| seconds_of(scene, c).last() == Some(&(scene.seconds - 1))),
        QuestionKind::WhichWay => {
            action(scene, named[0]).strip_prefix("moves ").unwrap_or("does not move").into()
        }
        QuestionKind::Does => action(scene, named[0]).into(),
        QuestionKind::LeftOf if text.contains("behind") => {
            let depth = |c| scene.sprites.iter().position(|s| s.concept == c).unwrap();
            if depth(named[0]) > depth(named[1]) { "in front" } else { "behind" }.into()
        }
        QuestionKind::LeftOf if named.len() == 2 => relation(scene, named[0], named[1]).into(),
        QuestionKind::LeftOf => only(&|c| c != named[0] && words.contains(&relation(scene, c, named[0]))),
        QuestionKind::What => {
            let asked = super::super::Motion::ALL.map(super::super::questions::action);
            match asked.iter().find(|action| text.ends_with(**action)) {
                Some(asked) => only(&|c| action(scene, c) == *asked),
                None => only(&|_| true),
            }
        }
    }
}

fn present(scene: &Scene, concept: usize) -> bool {
    !seconds_of(scene, concept).is_empty()
}

fn moment(scene: &Scene, concept: usize) -> &'static str {
    let seconds = seconds_of(scene, concept);
    assert!(seconds.len() * 2 < scene.seconds, "visible for most of the clip");
    if seconds[0] == 0 {
        "at the start"
    } else if seconds.contains(&(scene.seconds - 1)) {
        "at the end"
    } else {
        "in the middle"
    }
}

fn pose(scene: &Scene, concept: usize, second: usize) -> Pose {
    scene.visible_at(second as f64).find(|(sprite, _)| sprite.concept == concept).unwrap().1
}

fn action(scene: &Scene, concept: usize) -> &'static str {
    let (a, b) = (pose(scene, concept, 0), pose(scene, concept, scene.seconds - 1));
    let (x, y) = (b.x - a.x, b.y - a.y);
    let all = [
        (x < -0.3, "moves left"),
        (x > 0.3, "moves right"),
        (y < -0.3, "moves up"),
        (y > 0.3, "moves down"),
        (b.side > 1.5 * a.side, "grows"),
        (a.side > 1.5 * b.side, "shrinks"),
        ((b.angle - a.angle).abs() > 60.0, "turns"),
    ];
    let mut true_ones = all.into_iter().filter(|(is, _)| *is).map(|(_, action)| action);
    let action = true_ones.next().unwrap_or("stays still");
    assert_eq!(true_ones.next(), None, "two motions at once");
    action
}

/// Place of `a` relative to `b` in the first frame. It must be clear.
fn relation(scene: &Scene, a: usize, b: usize) -> &'static str {
    let (a, b) = (pose(scene, a, 0), pose(scene, b, 0));
    let x = (a.x - b.x) * f64::from(scene.width) / scene.shorter_side();
    let y = (a.y - b.y) * f64::from(scene.height) / scene.shorter_side();
    assert!(x.abs().max(y.abs()) > 1.5 * x.abs().min(y.abs()), "the relation is unclear");
    match (x.abs() > y.abs(), x < 0.0, y < 0.0) {
        (true, true, _) => "left",
        (true, false, _) => "right",
        (false, _, true) => "above",
        (false, _, false) => "below",
    }
}
