//! Captions of a fact: true ones, and ones that are false in exactly one part.

use super::cast::Cast;
use super::random::{Stream, one_of};
use super::scene::{Fact, Moment, Motion, Relation};
use super::words::{is_countable, list, name, number, plural, sentence, with_article};

/// Verb phrases of a motion in the singular: "moves to the left", "grows".
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

/// Participle of a motion: "moving left", "growing".
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

/// Preposition of a relation: "left of", "above".
pub fn preposition(relation: Relation) -> &'static str {
    match relation {
        Relation::Left => "left of",
        Relation::Right => "right of",
        Relation::Above => "above",
        Relation::Below => "below",
    }
}

/// Phrase for a moment: "at the start".
pub fn moment(when: Moment) -> &'static str {
    match when {
        Moment::Start => "at the start",
        Moment::Middle => "in the middle",
        Moment::End => "at the end",
    }
}

/// Captions of the fact in several phrasings. Their number is the same for all facts of one kind.
pub fn captions(fact: &Fact, concepts: &[String]) -> Vec<String> {
    let a = |concept: &usize| with_article(&concepts[*concept]);
    let texts: Vec<String> = match fact {
        Fact::Does { subject, motion } => does(&a(subject), *motion),
        Fact::Placed { subject, relation, than } => placed(&a(subject), *relation, &a(than)),
        Fact::DoesEach { subject, motion, other, other_motion } => {
            does_each(&a(subject), *motion, &a(other), *other_motion)
        }
        Fact::Count { subject, count, other } => counted(&concepts[*subject], *count, other.as_ref().map(a)),
        Fact::Order { first, then } => ordered(&a(first), &a(then)),
        Fact::Visit { subject, when, host } => visits(&a(subject), moment(*when), host.as_ref().map(a)),
        Fact::Passes { subject, motion, in_front, other } => {
            passes(&a(subject), *motion, *in_front, &a(other))
        }
        Fact::Together { subject } => {
            let all = list(&subject.iter().map(a).collect::<Vec<_>>());
            vec![format!("{all}."), format!("a picture of {all}."), format!("here one sees {all}.")]
        }
    };
    texts.iter().map(|text| sentence(text)).collect()
}

fn does(subject: &str, motion: Motion) -> Vec<String> {
    let [first, second] = verb(motion);
    let doing = participle(motion);
    vec![
        format!("{subject} {first}."),
        format!("{subject} {second}."),
        format!("{subject} {doing}."),
        format!("there is {subject} that {first}."),
    ]
}

fn placed(subject: &str, relation: Relation, than: &str) -> Vec<String> {
    let (to, back) = (preposition(relation), preposition(relation.opposite()));
    vec![
        format!("{subject} is {to} {than}."),
        format!("{than} is {back} {subject}."),
        format!("there is {subject} {to} {than}."),
        format!("{subject} {to} {than}."),
    ]
}

fn does_each(subject: &str, motion: Motion, other: &str, other_motion: Motion) -> Vec<String> {
    let ([does, also], [other_does, other_also]) = (verb(motion), verb(other_motion));
    vec![
        format!("{subject} {does}, {other} {other_does}."),
        format!("{other} {other_also} and {subject} {also}."),
        format!("while {subject} {also}, {other} {other_also}."),
    ]
}

fn counted(subject: &str, count: usize, other: Option<String>) -> Vec<String> {
    let thing = if count == 1 { name(subject) } else { plural(subject) };
    let are = if count == 1 { "is" } else { "are" };
    // Uncountable names take "some": "some spaghetti".
    let many = if is_countable(subject) { number(count) } else { "some" };
    let all = format!("{many} {thing}{}", other.map_or_else(String::new, |other| format!(" and {other}")));
    vec![format!("{all}."), format!("there {are} {all}."), format!("{all} can be seen.")]
}

fn ordered(first: &str, then: &str) -> Vec<String> {
    vec![
        format!("{first} appears, then {then}."),
        format!("first {first}, then {then}."),
        format!("{first} comes first and {then} comes last."),
        format!("{then} appears after {first}."),
    ]
}

fn visits(subject: &str, when: &str, host: Option<String>) -> Vec<String> {
    let next_to_host = host.map_or_else(String::new, |host| format!(" beside {host}"));
    vec![
        format!("{subject} is there{next_to_host} {when}."),
        format!("{when}, {subject} can be seen{next_to_host}."),
        format!("{subject} can be seen{next_to_host} only {when}."),
    ]
}

fn passes(subject: &str, motion: Motion, in_front: bool, other: &str) -> Vec<String> {
    let way = if in_front { "in front of" } else { "behind" };
    let ([long, short], moving) = (verb(motion), participle(motion));
    vec![
        format!("{subject} passes {way} {other}, {moving}."),
        format!("{subject} {long} {way} {other}."),
        format!("{moving}, {subject} passes {way} {other}."),
        format!("{subject} {short} and passes {way} {other}."),
    ]
}

/// Facts that differ from this one in exactly one part and are false of its scene.
pub fn near_misses(fact: &Fact, cast: &Cast, rng: &mut Stream) -> Vec<Fact> {
    let present = fact.concepts();
    let mut another = || cast.other_than(rng, &present);
    match *fact {
        Fact::Does { subject, motion } => {
            let absent = another();
            vec![
                Fact::Does { subject, motion: other_motion(motion, rng) },
                Fact::Does { subject: absent, motion },
            ]
        }
        Fact::Placed { subject, relation, than } => vec![
            Fact::Placed { subject, relation: relation.opposite(), than },
            Fact::Placed { subject: another(), relation, than },
            Fact::Placed { subject, relation, than: another() },
        ],
        Fact::DoesEach { subject, motion, other, other_motion: second_motion } => vec![
            Fact::DoesEach { subject: other, motion, other: subject, other_motion: second_motion },
            Fact::DoesEach { subject, motion: motion.backwards(), other, other_motion: second_motion },
            Fact::DoesEach { subject: another(), motion, other, other_motion: second_motion },
            Fact::DoesEach { subject, motion, other: another(), other_motion: second_motion },
        ],
        Fact::Count { subject, count, other } => {
            let absent = another();
            let instead = other.map(|_| another());
            let counts: Vec<usize> = (1..=4).filter(|other| *other != count).collect();
            let mut misses = vec![
                Fact::Count { subject, count: one_of(rng, &counts), other },
                Fact::Count { subject: absent, count, other },
            ];
            misses.extend(instead.map(|other| Fact::Count { subject, count, other: Some(other) }));
            misses
        }
        Fact::Order { first, then } => vec![
            Fact::Order { first: then, then: first },
            Fact::Order { first: another(), then },
            Fact::Order { first, then: another() },
        ],
        Fact::Visit { subject, when, host } => {
            let absent = another();
            let whens: Vec<Moment> = Moment::ALL.into_iter().filter(|other| *other != when).collect();
            let when_else = one_of(rng, &whens);
            vec![Fact::Visit { subject, when: when_else, host }, Fact::Visit { subject: absent, when, host }]
        }
        Fact::Passes { subject, motion, in_front, other } => vec![
            Fact::Passes { subject, motion: motion.backwards(), in_front, other },
            Fact::Passes { subject, motion, in_front: !in_front, other },
            Fact::Passes { subject: another(), motion, in_front, other },
            Fact::Passes { subject, motion, in_front, other: another() },
        ],
        Fact::Together { ref subject } => {
            let changed = |i: usize| {
                let mut subject = subject.clone();
                subject[i] = another();
                Fact::Together { subject }
            };
            (0..subject.len()).map(changed).collect()
        }
    }
}

/// The reversed motion if it differs, else any other motion.
fn other_motion(motion: Motion, rng: &mut Stream) -> Motion {
    if motion.backwards() != motion {
        return motion.backwards();
    }
    let others: Vec<Motion> = Motion::ALL.into_iter().filter(|other| *other != motion).collect();
    one_of(rng, &others)
}
