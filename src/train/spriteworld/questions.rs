//! Questions with answers that the scene determines, and the possible answers of each.
//!
//! Answers have no punctuation: "flamingo", "three", "left", "moves left", "yes", "at the start", "there is no owl".

use rand::RngExt;

use super::captions::{moment, preposition};
use super::cast::Cast;
use super::random::{Stream, one_of};
use super::scene::{Fact, Moment, Motion, Relation};
use super::words::{is_countable, name, number, plural, with_article};

/// Number of choices of a question for a name, if there are enough concepts.
const NAMES: usize = 8;

/// Kind of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QuestionKind {
    /// A name.
    What,
    /// Left, right, up or down.
    WhichWay,
    /// The motion of a sprite: one of eight.
    Does,
    /// One to four.
    HowMany,
    /// Yes or no.
    IsThere,
    /// The first or the last of two sprites.
    FirstOf,
    /// The place of one sprite relative to another, or the sprite at a place.
    LeftOf,
    /// At the start, in the middle or at the end.
    When,
    /// A question about a sprite that is not there.
    Absent,
}

impl QuestionKind {
    /// Name of the kind in tables.
    pub fn name(self) -> &'static str {
        match self {
            QuestionKind::What => "what",
            QuestionKind::WhichWay => "which way",
            QuestionKind::Does => "what it does",
            QuestionKind::HowMany => "how many",
            QuestionKind::IsThere => "is there",
            QuestionKind::FirstOf => "what first",
            QuestionKind::LeftOf => "where",
            QuestionKind::When => "when",
            QuestionKind::Absent => "not there",
        }
    }
}

/// A question with its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Kind of the question.
    pub kind: QuestionKind,
    /// Text of the question.
    pub question: String,
    /// The right answer.
    pub answer: String,
    /// All possible answers, the right one included.
    pub choices: Vec<String>,
}

/// Generates all questions about a fact. Phrasings, wrong names and the order of choices are random.
pub fn questions(fact: &Fact, concepts: &[String], cast: &Cast, rng: &mut Stream) -> Vec<Question> {
    let mut writer = QuestionWriter { concepts, cast, rng, questions: Vec::new() };
    match *fact {
        Fact::Does { subject, motion } => writer.does(subject, motion),
        Fact::Placed { subject, relation, than } => writer.placed(subject, relation, than),
        Fact::DoesEach { subject, motion, other, other_motion } => {
            writer.each([(subject, motion), (other, other_motion)]);
        }
        Fact::Count { subject, count, other } => writer.count(subject, count, other.is_none()),
        Fact::Order { first, then } => writer.order(first, then),
        Fact::Visit { subject, when, .. } => writer.visit(subject, when),
        Fact::Passes { subject, motion, in_front, other } => writer.passes(subject, motion, in_front, other),
        Fact::Together { ref subject } => {
            if let [subject] = subject[..] {
                writer.what(subject);
            }
        }
    }
    writer.is_there(&fact.concepts());
    writer.absent(&fact.concepts());
    writer.questions
}

/// Answer for a direction: "left".
pub fn direction(motion: Motion) -> &'static str {
    action(motion).trim_start_matches("moves ")
}

/// Answer to "what does it do?": "moves left".
pub fn action(motion: Motion) -> &'static str {
    match motion {
        Motion::Still => "stays still",
        Motion::Left => "moves left",
        Motion::Right => "moves right",
        Motion::Up => "moves up",
        Motion::Down => "moves down",
        Motion::Growing => "grows",
        Motion::Shrinking => "shrinks",
        Motion::Turning => "turns",
    }
}

struct QuestionWriter<'a> {
    concepts: &'a [String],
    cast: &'a Cast,
    rng: &'a mut Stream,
    questions: Vec<Question>,
}

impl QuestionWriter<'_> {
    fn does(&mut self, subject: usize, motion: Motion) {
        self.what(subject);
        let the = self.the(subject);
        let phrasings = [format!("What does {the} do?"), format!("What is {the} doing?")];
        self.ask(QuestionKind::Does, &phrasings, action(motion), &Motion::ALL.map(action));
        if motion.axis().is_some() {
            self.which_way(subject, motion);
        }
    }

    fn placed(&mut self, subject: usize, relation: Relation, than: usize) {
        let (first_name, second_name) = (self.the(subject), self.the(than));
        let phrasings = [
            format!("Where is {first_name}, seen from {second_name}?"),
            format!("Is {first_name} left of, right of, above or below {second_name}?"),
        ];
        self.ask(QuestionKind::LeftOf, &phrasings, side(relation), &Relation::ALL.map(side));
        let there = preposition(relation);
        let phrasings =
            [format!("What is {there} {second_name}?"), format!("Which thing is {there} {second_name}?")];
        self.name(QuestionKind::LeftOf, &phrasings, subject, &[subject, than]);
        let back = preposition(relation.opposite());
        self.name(QuestionKind::LeftOf, &[format!("What is {back} {first_name}?")], than, &[subject, than]);
    }

    fn each(&mut self, both: [(usize, Motion); 2]) {
        for (subject, motion) in both {
            if motion.axis().is_some() {
                self.which_way(subject, motion);
            }
            let phrasings = [format!("What {}?", action(motion)), format!("Which thing {}?", action(motion))];
            self.name(QuestionKind::What, &phrasings, subject, &both.map(|(concept, _)| concept));
        }
    }

    fn count(&mut self, subject: usize, count: usize, alone: bool) {
        if alone {
            self.what(subject);
        }
        if is_countable(&self.concepts[subject]) {
            let many = plural(&self.concepts[subject]);
            let phrasings = [format!("How many {many} are there?"), format!("How many {many} can be seen?")];
            self.ask(QuestionKind::HowMany, &phrasings, number(count), &[1, 2, 3, 4].map(number));
        }
    }

    fn order(&mut self, first: usize, then: usize) {
        let mut both = [first, then];
        if self.rng.random_bool(0.5) {
            both.reverse();
        }
        let [a, b] = both.map(|concept| self.the(concept));
        let phrasings =
            [format!("What appears first, {a} or {b}?"), format!("Which comes first, {a} or {b}?")];
        self.ask_which_of_two(QuestionKind::FirstOf, &phrasings, first, both);
        let phrasings = [format!("What appears last, {a} or {b}?"), format!("Which comes last, {a} or {b}?")];
        self.ask_which_of_two(QuestionKind::FirstOf, &phrasings, then, both);
    }

    fn visit(&mut self, subject: usize, when: Moment) {
        let the = self.the(subject);
        let phrasings = [format!("When is {the} there?"), format!("When can {the} be seen?")];
        self.ask(QuestionKind::When, &phrasings, moment(when), &Moment::ALL.map(moment));
    }

    fn passes(&mut self, subject: usize, motion: Motion, in_front: bool, other: usize) {
        self.which_way(subject, motion);
        let (mover, rest) = (self.the(subject), self.the(other));
        let phrasings = [
            format!("Does {mover} pass in front of or behind {rest}?"),
            format!("Is {mover} in front of or behind {rest}?"),
        ];
        let ways = ["behind", "in front"];
        self.ask(QuestionKind::LeftOf, &phrasings, ways[usize::from(in_front)], &ways);
        let phrasings = [format!("What {}?", action(motion)), format!("Which thing {}?", action(motion))];
        self.name(QuestionKind::What, &phrasings, subject, &[subject, other]);
    }

    fn what(&mut self, subject: usize) {
        let phrasings = ["What is this?", "What can be seen?", "What is in the video?"].map(String::from);
        self.name(QuestionKind::What, &phrasings, subject, &[subject]);
    }

    fn which_way(&mut self, subject: usize, motion: Motion) {
        let the = self.the(subject);
        let phrasings = [
            format!("Which way does {the} move?"),
            format!("Where does {the} go?"),
            format!("In which direction does {the} move?"),
        ];
        self.ask(QuestionKind::WhichWay, &phrasings, direction(motion), &Motion::DIRECTIONS.map(direction));
    }

    /// Asks whether a present and an absent concept are there, in random order.
    fn is_there(&mut self, present: &[usize]) {
        let first = self.rng.random_bool(0.5);
        for yes in [first, !first] {
            let concept =
                if yes { one_of(self.rng, present) } else { self.cast.other_than(self.rng, present) };
            let a = with_article(&self.concepts[concept]);
            let phrasings =
                [format!("Is there {a}?"), format!("Can {a} be seen?"), format!("Does {a} appear?")];
            self.ask(QuestionKind::IsThere, &phrasings, if yes { "yes" } else { "no" }, &["yes", "no"]);
        }
    }

    /// Asks about an absent concept as if it were there.
    fn absent(&mut self, present: &[usize]) {
        let concept = self.cast.other_than(self.rng, present);
        let the = self.the(concept);
        let answer = format!("there is no {}", name(&self.concepts[concept]));
        let forms: [(String, Vec<&str>); 3] = [
            (format!("What does {the} do?"), Motion::ALL.map(action).into()),
            (format!("Which way does {the} move?"), Motion::DIRECTIONS.map(direction).into()),
            (format!("When is {the} there?"), Moment::ALL.map(moment).into()),
        ];
        let (question, mut choices) = forms[self.rng.random_range(0..forms.len())].clone();
        choices.push(&answer);
        self.ask(QuestionKind::Absent, &[question], &answer, &choices);
    }

    /// Asks for a name. The choices are the concepts `among` and random others.
    fn name(&mut self, kind: QuestionKind, phrasings: &[String], answer: usize, among: &[usize]) {
        let choices = self.cast.choices(self.rng, NAMES, among);
        self.names(kind, phrasings, answer, &choices);
    }

    fn ask_which_of_two(
        &mut self,
        kind: QuestionKind,
        phrasings: &[String],
        answer: usize,
        both: [usize; 2],
    ) {
        self.names(kind, phrasings, answer, &both);
    }

    fn names(&mut self, kind: QuestionKind, phrasings: &[String], answer: usize, choices: &[usize]) {
        let names: Vec<String> = choices.iter().map(|c| name(&self.concepts[*c])).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let answer = name(&self.concepts[answer]);
        self.ask(kind, phrasings, &answer, &names);
    }

    fn ask(&mut self, kind: QuestionKind, phrasings: &[String], answer: &str, choices: &[&str]) {
        let question = phrasings[self.rng.random_range(0..phrasings.len())].clone();
        let choices = choices.iter().map(|choice| choice.to_string()).collect();
        self.questions.push(Question { kind, question, answer: answer.to_string(), choices });
    }

    fn the(&self, concept: usize) -> String {
        format!("the {}", name(&self.concepts[concept]))
    }
}

/// Answer for a relation: "left", "above".
pub fn side(relation: Relation) -> &'static str {
    match relation {
        Relation::Left => "left",
        Relation::Right => "right",
        Relation::Above => "above",
        Relation::Below => "below",
    }
}
