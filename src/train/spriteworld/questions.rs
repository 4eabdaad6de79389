//! Questions whose answers the scene settles, with everything that could be answered.
//!
//! Answers are bare: "flamingo", "three", "left", "moves left", "yes", "at the start".

use rand::RngExt;

use super::captions::{moment, preposition};
use super::cast::Cast;
use super::random::{Stream, one_of};
use super::scene::{Fact, Moment, Motion, Relation};
use super::words::{is_countable, name, number, plural, with_article};

/// How many names a question that asks for one is scored against, where there are so many.
const NAMES: usize = 8;

/// What a question asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QuestionKind {
    /// A name.
    What,
    /// Left, right, up or down.
    WhichWay,
    /// What something does: one of eight.
    Does,
    /// One to four.
    HowMany,
    /// Yes or no.
    IsThere,
    /// Which of two came first or last.
    FirstOf,
    /// Where one thing is, seen from another, or what is there.
    LeftOf,
    /// At the start, in the middle or at the end.
    When,
}

impl QuestionKind {
    /// The kind's name in tables.
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
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub kind: QuestionKind,
    pub question: String,
    pub answer: String,
    /// All possible answers, `answer` among them: a guess is right once in so many.
    pub choices: Vec<String>,
}

/// Everything that can be asked of a fact. Phrasings, wrong names and the order of choices are random.
pub fn questions(fact: &Fact, concepts: &[String], cast: &Cast, rng: &mut Stream) -> Vec<Question> {
    let mut asker = Asker { concepts, cast, rng, asked: Vec::new() };
    match *fact {
        Fact::Does { who, motion } => asker.does(who, motion),
        Fact::Placed { who, relation, than } => asker.placed(who, relation, than),
        Fact::DoesEach { who, motion, other, other_motion } => {
            asker.each([(who, motion), (other, other_motion)]);
        }
        Fact::Count { who, count } => asker.count(who, count),
        Fact::Order { first, then } => asker.order(first, then),
        Fact::Visit { who, when, .. } => asker.visit(who, when),
        Fact::Passes { who, motion, in_front, other } => asker.passes(who, motion, in_front, other),
        Fact::Together { ref who } => {
            if let [who] = who[..] {
                asker.what(who);
            }
        }
    }
    asker.is_there(&fact.concepts());
    asker.asked
}

/// "left": how a direction is answered.
pub fn direction(motion: Motion) -> &'static str {
    action(motion).trim_start_matches("moves ")
}

/// "moves left": how "what does it do?" is answered.
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

struct Asker<'a> {
    concepts: &'a [String],
    cast: &'a Cast,
    rng: &'a mut Stream,
    asked: Vec<Question>,
}

impl Asker<'_> {
    fn does(&mut self, who: usize, motion: Motion) {
        self.what(who);
        let the = self.the(who);
        let asks = [format!("What does {the} do?"), format!("What is {the} doing?")];
        self.ask(QuestionKind::Does, &asks, action(motion), &Motion::ALL.map(action));
        if motion.axis().is_some() {
            self.which_way(who, motion);
        }
    }

    fn placed(&mut self, who: usize, relation: Relation, than: usize) {
        let (thing, from) = (self.the(who), self.the(than));
        let asks = [
            format!("Where is {thing}, seen from {from}?"),
            format!("Is {thing} left of, right of, above or below {from}?"),
        ];
        self.ask(QuestionKind::LeftOf, &asks, side(relation), &Relation::ALL.map(side));
        let there = preposition(relation);
        let asks = [format!("What is {there} {from}?"), format!("Which thing is {there} {from}?")];
        self.name(QuestionKind::LeftOf, &asks, who, &[who, than]);
        let back = preposition(relation.opposite());
        self.name(QuestionKind::LeftOf, &[format!("What is {back} {thing}?")], than, &[who, than]);
    }

    fn each(&mut self, both: [(usize, Motion); 2]) {
        for (who, motion) in both {
            if motion.axis().is_some() {
                self.which_way(who, motion);
            }
            let asks = [format!("What {}?", action(motion)), format!("Which thing {}?", action(motion))];
            self.name(QuestionKind::What, &asks, who, &both.map(|(concept, _)| concept));
        }
    }

    fn count(&mut self, who: usize, count: usize) {
        self.what(who);
        if is_countable(&self.concepts[who]) {
            let many = plural(&self.concepts[who]);
            let asks = [format!("How many {many} are there?"), format!("How many {many} can be seen?")];
            self.ask(QuestionKind::HowMany, &asks, number(count), &[1, 2, 3, 4].map(number));
        }
    }

    fn order(&mut self, first: usize, then: usize) {
        let mut both = [first, then];
        if self.rng.random_bool(0.5) {
            both.reverse();
        }
        let [a, b] = both.map(|concept| self.the(concept));
        let asks = [format!("What appears first, {a} or {b}?"), format!("Which comes first, {a} or {b}?")];
        self.of_two(QuestionKind::FirstOf, &asks, first, both);
        let asks = [format!("What appears last, {a} or {b}?"), format!("Which comes last, {a} or {b}?")];
        self.of_two(QuestionKind::FirstOf, &asks, then, both);
    }

    fn visit(&mut self, who: usize, when: Moment) {
        let the = self.the(who);
        let asks = [format!("When is {the} there?"), format!("When can {the} be seen?")];
        self.ask(QuestionKind::When, &asks, moment(when), &Moment::ALL.map(moment));
    }

    fn passes(&mut self, who: usize, motion: Motion, in_front: bool, other: usize) {
        self.which_way(who, motion);
        let (mover, rest) = (self.the(who), self.the(other));
        let asks = [
            format!("Does {mover} pass in front of or behind {rest}?"),
            format!("Is {mover} in front of or behind {rest}?"),
        ];
        let ways = ["behind", "in front"];
        self.ask(QuestionKind::LeftOf, &asks, ways[usize::from(in_front)], &ways);
        let asks = [format!("What {}?", action(motion)), format!("Which thing {}?", action(motion))];
        self.name(QuestionKind::What, &asks, who, &[who, other]);
    }

    fn what(&mut self, who: usize) {
        let asks = ["What is this?", "What can be seen?", "What is in the video?"].map(String::from);
        self.name(QuestionKind::What, &asks, who, &[who]);
    }

    fn which_way(&mut self, who: usize, motion: Motion) {
        let the = self.the(who);
        let asks = [
            format!("Which way does {the} move?"),
            format!("Where does {the} go?"),
            format!("In which direction does {the} move?"),
        ];
        self.ask(QuestionKind::WhichWay, &asks, direction(motion), &Motion::DIRECTIONS.map(direction));
    }

    /// Yes as often as no; what is not there is any other concept, drawn like those that are.
    fn is_there(&mut self, present: &[usize]) {
        let yes = self.rng.random_bool(0.5);
        let concept = if yes { one_of(self.rng, present) } else { self.cast.other_than(self.rng, present) };
        let a = with_article(&self.concepts[concept]);
        let asks = [format!("Is there {a}?"), format!("Can {a} be seen?"), format!("Does {a} appear?")];
        self.ask(QuestionKind::IsThere, &asks, if yes { "yes" } else { "no" }, &["yes", "no"]);
    }

    /// A question for a name: the concepts `among` are choices, and others until there are enough.
    fn name(&mut self, kind: QuestionKind, asks: &[String], answer: usize, among: &[usize]) {
        let choices = self.cast.choices(self.rng, NAMES, among);
        self.names(kind, asks, answer, &choices);
    }

    fn of_two(&mut self, kind: QuestionKind, asks: &[String], answer: usize, both: [usize; 2]) {
        self.names(kind, asks, answer, &both);
    }

    fn names(&mut self, kind: QuestionKind, asks: &[String], answer: usize, choices: &[usize]) {
        let names: Vec<String> = choices.iter().map(|c| name(&self.concepts[*c])).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let answer = name(&self.concepts[answer]);
        self.ask(kind, asks, &answer, &names);
    }

    fn ask(&mut self, kind: QuestionKind, asks: &[String], answer: &str, choices: &[&str]) {
        let question = asks[self.rng.random_range(0..asks.len())].clone();
        let choices = choices.iter().map(|choice| choice.to_string()).collect();
        self.asked.push(Question { kind, question, answer: answer.to_string(), choices });
    }

    fn the(&self, concept: usize) -> String {
        format!("the {}", name(&self.concepts[concept]))
    }
}

/// "left", "above": how a relation is answered.
pub fn side(relation: Relation) -> &'static str {
    match relation {
        Relation::Left => "left",
        Relation::Right => "right",
        Relation::Above => "above",
        Relation::Below => "below",
    }
}
