use std::path::Path;

use super::{WordNet, WordNetError};
use crate::metrics::MetricError;

/// Nouns: thing > animal > (dog, cat > kitten), thing > cup. Verb: run. Hypernyms stand behind `@`.
const DATA: &str = "  1 A licence.\n\
    00000010 03 n 01 thing 0 000 | all\n\
    00000020 03 n 01 animal 0 001 @ 00000010 n 0000 | lives\n\
    00000030 03 n 02 dog 0 hound 0 002 @ 00000020 n 0000 ~ 00000040 n 0000 | barks\n\
    00000040 03 n 01 cat 0 001 @ 00000020 n 0000 | meows\n\
    00000050 03 n 01 kitten 0 001 @ 00000040 n 0000 | small\n\
    00000060 03 n 01 cup 0 001 @ 00000010 n 0000 | holds\n";
const INDEX: &str = "thing n 1 0 1 0 00000010\nanimal n 1 1 @ 1 0 00000020\ndog n 1 2 @ ~ 1 1 00000030\n\
    hound n 1 1 @ 1 0 00000030\ncat n 1 1 @ 1 0 00000040\nkitten n 1 1 @ 1 0 00000050\ncup n 1 1 @ 1 0 00000060\n";

fn small(changes: &[(&str, &str)]) -> Result<WordNet, WordNetError> {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    for part in ["noun", "verb", "adj", "adv"] {
        for name in [format!("data.{part}"), format!("index.{part}"), format!("{part}.exc")] {
            write(&name, "");
        }
    }
    let verb = ("data.verb", "00000010 30 v 01 run 0 000 01 + 01 00 | moves\n");
    let files = [("data.noun", DATA), ("index.noun", INDEX), ("noun.exc", "kine cat\n"), verb];
    let verbs = ("index.verb", "run v 1 0 1 0 00000010\n");
    files
        .iter()
        .chain(&[verbs, ("verb.exc", "running run\n")])
        .chain(changes)
        .for_each(|(name, text)| write(name, text));
    WordNet::open(folder.path())
}

fn close(a: Option<f64>, b: f64) {
    assert!(a.is_some_and(|a| (a - b).abs() < 1e-12), "{a:?} is not {b}");
}

#[test]
fn similarity_follows_the_deepest_common_hypernym() {
    let words = small(&[]).unwrap();
    close(words.wup_similarity("dog", "cat"), 4.0 / 6.0);
    close(words.wup_similarity("kitten", "Dogs"), 4.0 / 7.0);
    close(words.wup_similarity("cat", "kitten"), 6.0 / 7.0);
    close(words.wup_similarity("hound", "dog"), 1.0);
    close(words.wup_similarity("kine", "cats"), 1.0);
    close(words.wup_similarity("dog", "cup"), 2.0 / 5.0);
    close(words.wup_similarity("running", "run"), 1.0);
    // A verb and a noun meet at a root above their roots: 1 step from `run`, 3 from `dog` and its two hypernyms.
    close(words.wup_similarity("run", "dog"), 2.0 / 6.0);
    assert_eq!(words.wup_similarity("dog", "unicorn"), None);
}

#[test]
fn wups_multiplies_the_best_similarities() {
    let words = small(&[]).unwrap();
    let score = |prediction, answer, threshold| words.wups(prediction, &[answer], threshold).ok();
    close(score("dog", "dog", 0.9), 1.0);
    close(score("dog", "cat", 0.0), 4.0 / 6.0);
    close(score("dog", "cat", 0.9), 0.1 * 4.0 / 6.0);
    close(score("cat cup", "cat", 0.0), 2.0 / 5.0);
    close(score("unicorn cat", "cat", 0.0), 1.0);
    close(score("unicorn", "cat", 0.0), 0.0);
    close(words.wups("dog", &["cat", "dog"], 0.9).ok(), 1.0);
    assert_eq!(words.wups("dog", &[] as &[&str], 0.0), Err(MetricError::NoReference(0)));
    assert_eq!(words.wups("dog", &["dog"], f64::NAN), Err(MetricError::NotANumber(0)));
    assert!(words.wups(&"cat cup ".repeat(10_000), &["dog ".repeat(10_000)], 0.0).is_ok());
}

#[test]
fn finds_verbs_and_plurals() {
    let words = small(&[]).unwrap();
    assert_eq!(words.verb_lemma("running"), "run");
    assert_eq!(words.verb_lemma("sing"), "sing");
    for (word, plural) in [("dogs", true), ("kine", true), ("cups", true), ("cup", false), ("bus", false)] {
        assert_eq!(words.is_plural(word), plural, "{word}");
    }
}

#[test]
fn broken_files_are_refused() {
    for (name, text, expected) in [
        ("data.noun", "00000010 03 n", "data.noun, line 1: the word is missing"),
        ("data.noun", "00000010 03 n 01 a 0 002 @ 00000010 n 0000", "line 1: a pointer is missing"),
        ("data.noun", "00000010 03 n 0 a 0 000", "line 1: the count of words is missing"),
        ("data.noun", "00000010 03 n ffffffffffffffff a 0 000", "line 1: the count of pointers is missing"),
        ("data.noun", "00000010 03 n 01 a 0 001 @ 00000010 n 0000", "data.noun: the hypernyms form a cycle"),
        ("index.noun", "\ndog n 1 0 1 0 00000011", "index.noun, line 2: there is no synset"),
        ("index.noun", "dog n 2 0 1 0 00000010", "line 1: the offsets are not as many as the senses"),
        ("index.noun", "dog n 1 18446744073709551615 1", "line 1: the offsets"),
    ] {
        let error = small(&[("index.noun", ""), (name, text)]).err().expect("an error").to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(matches!(WordNet::open(Path::new("/nonexistent")), Err(WordNetError::Read { .. })));
}
