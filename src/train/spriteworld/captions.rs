//! Facts in words: captions that are true, and captions that are false in exactly one thing.

use super::cast::Cast;
use super::random::{Stream, one_of};
use super::scene::{Fact, Moment, Motion, Relation};
use super::words::{is_countable, list, name, number, plural, sentence, with_article};

/// "moves to the left", "grows"; after "it", a name or a count of one.
pub fn verb(motion: Motion) -> [&'static str; 2] {
    match motion {
        Motion::Still => ["stays still", "does not move"],
        Motion::Left => ["moves to the left", "moves left"],
        Motion::Right => ["moves to the right", "moves right"],
        Motion::Up => ["moves up", "moves upwards"],
        Motion::Down => ["moves down", "moves downwards"],
        Motion::Growing => ["grows", "gets bigger"],
        Motion::Shrinking => ["shrinks", "gets smaller"],
        Motion::Turning => ["turns", "turns around"],
    }
}

/// "moving left", "growing".
fn participle(motion: Motion) -> &'static str {
    match motion {
        Motion::Still => "staying still",
        Motion::Left => "moving left",
        Motion::Right => "moving right",
        Motion::Up => "moving up",
        Motion::Down => "moving down",
        Motion::Growing => "growing",
        Motion::Shrinking => "shrinking",
        Motion::Turning => "turning",
    }
}

/// "left of", "above".
pub fn preposition(relation: Relation) -> &'static str {
    match relation {
        Relation::Left => "left of",
        Relation::Right => "right of",
        Relation::Above => "above",
        Relation::Below => "below",
    }
}

pub fn moment(when: Moment) -> &'static str {
    match when {
        Moment::Start => "at the start",
        Moment::Middle => "in the middle",
        Moment::End => "at the end",
    }
}

/// The fact in several phrasings, always the same number for one kind of fact.
pub fn captions(fact: &Fact, concepts: &[String]) -> Vec<String> {
    let a = |concept: &usize| with_article(&concepts[*concept]);
    let said: Vec<String> = match fact {
        Fact::Does { who, motion } => does(&a(who), *motion),
        Fact::Placed { who, relation, than } => placed(&a(who), *relation, &a(than)),
        Fact::DoesEach { who, motion, other, other_motion } => {
            does_each(&a(who), *motion, &a(other), *other_motion)
        }
        Fact::Count { who, count } => counted(&concepts[*who], *count),
        Fact::Order { first, then } => ordered(&a(first), &a(then)),
        Fact::Visit { who, when, host } => visits(&a(who), moment(*when), host.as_ref().map(a)),
        Fact::Passes { who, motion, in_front, other } => passes(&a(who), *motion, *in_front, &a(other)),
        Fact::Together { who } => {
            let all = list(&who.iter().map(a).collect::<Vec<_>>());
            vec![format!("{all}."), format!("a picture of {all}."), format!("here one sees {all}.")]
        }
    };
    said.iter().map(|text| sentence(text)).collect()
}

fn does(who: &str, motion: Motion) -> Vec<String> {
    let [first, second] = verb(motion);
    let doing = participle(motion);
    vec![
        format!("{who} {first}."),
        format!("{who} {second}."),
        format!("{who} {doing}."),
        format!("there is {who} that {first}."),
    ]
}

fn placed(who: &str, relation: Relation, than: &str) -> Vec<String> {
    let (to, back) = (preposition(relation), preposition(relation.opposite()));
    vec![
        format!("{who} is {to} {than}."),
        format!("{than} is {back} {who}."),
        format!("there is {who} {to} {than}."),
        format!("{who} {to} {than}."),
    ]
}

fn does_each(who: &str, motion: Motion, other: &str, other_motion: Motion) -> Vec<String> {
    let ([does, also], [other_does, other_also]) = (verb(motion), verb(other_motion));
    vec![
        format!("{who} {does}, {other} {other_does}."),
        format!("{other} {other_also} and {who} {also}."),
        format!("while {who} {also}, {other} {other_also}."),
    ]
}

fn counted(who: &str, count: usize) -> Vec<String> {
    let thing = if count == 1 { name(who) } else { plural(who) };
    let are = if count == 1 { "is" } else { "are" };
    // "Some spaghetti" is one.
    let many = if is_countable(who) { number(count) } else { "some" };
    vec![
        format!("{many} {thing}."),
        format!("there {are} {many} {thing}."),
        format!("{many} {thing} can be seen."),
    ]
}

fn ordered(first: &str, then: &str) -> Vec<String> {
    vec![
        format!("{first} appears, then {then}."),
        format!("first {first}, then {then}."),
        format!("{first} comes first and {then} comes last."),
        format!("{then} appears after {first}."),
    ]
}

fn visits(who: &str, when: &str, host: Option<String>) -> Vec<String> {
    let beside = host.map_or_else(String::new, |host| format!(" beside {host}"));
    vec![
        format!("{who} is there{beside} {when}."),
        format!("{when}, {who} can be seen{beside}."),
        format!("{who} can be seen{beside} only {when}."),
    ]
}

fn passes(who: &str, motion: Motion, in_front: bool, other: &str) -> Vec<String> {
    let way = if in_front { "in front of" } else { "behind" };
    let ([long, short], moving) = (verb(motion), participle(motion));
    vec![
        format!("{who} passes {way} {other}, {moving}."),
        format!("{who} {long} {way} {other}."),
        format!("{moving}, {who} passes {way} {other}."),
        format!("{who} {short} and passes {way} {other}."),
    ]
}

/// Facts that differ from this one in exactly one thing, and are false of its scene.
pub fn near_misses(fact: &Fact, cast: &Cast, rng: &mut Stream) -> Vec<Fact> {
    let present = fact.concepts();
    let mut another = || cast.other_than(rng, &present);
    match *fact {
        Fact::Does { who, motion } => {
            let stranger = another();
            vec![Fact::Does { who, motion: other_motion(motion, rng) }, Fact::Does { who: stranger, motion }]
        }
        Fact::Placed { who, relation, than } => vec![
            Fact::Placed { who, relation: relation.opposite(), than },
            Fact::Placed { who: another(), relation, than },
            Fact::Placed { who, relation, than: another() },
        ],
        Fact::DoesEach { who, motion, other, other_motion: beside } => vec![
            Fact::DoesEach { who: other, motion, other: who, other_motion: beside },
            Fact::DoesEach { who, motion: motion.backwards(), other, other_motion: beside },
            Fact::DoesEach { who: another(), motion, other, other_motion: beside },
            Fact::DoesEach { who, motion, other: another(), other_motion: beside },
        ],
        Fact::Count { who, count } => {
            let stranger = another();
            let counts: Vec<usize> = (1..=4).filter(|other| *other != count).collect();
            vec![Fact::Count { who, count: one_of(rng, &counts) }, Fact::Count { who: stranger, count }]
        }
        Fact::Order { first, then } => vec![
            Fact::Order { first: then, then: first },
            Fact::Order { first: another(), then },
            Fact::Order { first, then: another() },
        ],
        Fact::Visit { who, when, host } => {
            let stranger = another();
            let whens: Vec<Moment> = Moment::ALL.into_iter().filter(|other| *other != when).collect();
            let when_else = one_of(rng, &whens);
            vec![Fact::Visit { who, when: when_else, host }, Fact::Visit { who: stranger, when, host }]
        }
        Fact::Passes { who, motion, in_front, other } => vec![
            Fact::Passes { who, motion: motion.backwards(), in_front, other },
            Fact::Passes { who, motion, in_front: !in_front, other },
            Fact::Passes { who: another(), motion, in_front, other },
            Fact::Passes { who, motion, in_front, other: another() },
        ],
        Fact::Together { ref who } => {
            let changed = |i: usize| {
                let mut who = who.clone();
                who[i] = another();
                Fact::Together { who }
            };
            (0..who.len()).map(changed).collect()
        }
    }
}

/// The same clip backwards where that is another motion, else any other one.
fn other_motion(motion: Motion, rng: &mut Stream) -> Motion {
    if motion.backwards() != motion {
        return motion.backwards();
    }
    let others: Vec<Motion> = Motion::ALL.into_iter().filter(|other| *other != motion).collect();
    one_of(rng, &others)
}
