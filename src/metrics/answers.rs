//! Short answers: VQA accuracy, exact match, iVQA accuracy.

use super::MetricError;
use super::ptb::is_digit;

/// Greatest count of periods that the normalisation removes: the reference passes a flag of regular expressions where
/// the count stands.
const MOST_PERIODS: usize = 32;
const PUNCTUATION: &str = ";/[]\"{}()=+\\_-><@`,?!";
const ARTICLES: [&str; 3] = ["a", "an", "the"];
const NUMBERS: [(&str, &str); 12] = [
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
];

/// Words without an apostrophe, or without one of two, and the same words with it. The table of the reference, with
/// its one wrong entry (`somebody'd`), without its keys in capitals, which it never finds.
const CONTRACTIONS: &str = "aint:ain't arent:aren't cant:can't couldve:could've couldnt:couldn't \
    couldn'tve:couldn't've couldnt've:couldn't've didnt:didn't doesnt:doesn't dont:don't hadnt:hadn't \
    hadnt've:hadn't've hadn'tve:hadn't've hasnt:hasn't havent:haven't hed:he'd hed've:he'd've he'dve:he'd've \
    hes:he's howd:how'd howll:how'll hows:how's isnt:isn't itd:it'd itd've:it'd've it'dve:it'd've itll:it'll \
    maam:ma'am mightnt:mightn't mightnt've:mightn't've mightn'tve:mightn't've mightve:might've mustnt:mustn't \
    mustve:must've neednt:needn't notve:not've oclock:o'clock oughtnt:oughtn't ow's'at:'ow's'at 'ows'at:'ow's'at \
    'ow'sat:'ow's'at shant:shan't shed've:she'd've she'dve:she'd've shouldve:should've shouldnt:shouldn't \
    shouldnt've:shouldn't've shouldn'tve:shouldn't've somebody'd:somebodyd somebodyd've:somebody'd've \
    somebody'dve:somebody'd've somebodyll:somebody'll somebodys:somebody's someoned:someone'd \
    someoned've:someone'd've someone'dve:someone'd've someonell:someone'll someones:someone's somethingd:something'd \
    somethingd've:something'd've something'dve:something'd've somethingll:something'll thats:that's thered:there'd \
    thered've:there'd've there'dve:there'd've therere:there're theres:there's theyd:they'd theyd've:they'd've \
    they'dve:they'd've theyll:they'll theyre:they're theyve:they've twas:'twas wasnt:wasn't wed've:we'd've \
    we'dve:we'd've weve:we've werent:weren't whatll:what'll whatre:what're whats:what's whatve:what've whens:when's \
    whered:where'd wheres:where's whereve:where've whod:who'd whod've:who'd've who'dve:who'd've wholl:who'll \
    whos:who's whove:who've whyll:why'll whyre:why're whys:why's wont:won't wouldve:would've wouldnt:wouldn't \
    wouldnt've:wouldn't've wouldn'tve:wouldn't've yall:y'all yall'll:y'all'll y'allll:y'all'll yall'd've:y'all'd've \
    y'alld've:y'all'd've y'all'dve:y'all'd've youd:you'd youd've:you'd've you'dve:you'd've youll:you'll youre:you're \
    youve:you've";

/// Normalises an answer as the VQA benchmarks do: punctuation goes or becomes a space, then lower case, numbers to
/// ten as digits, no articles, apostrophes in contractions.
///
/// Source: `processPunctuation` and `processDigitArticle` of `vqaEval.py` (VQAv2), in the copy of open_flamingo 2.0.1.
///
/// ```
/// assert_eq!(flamingo::metrics::normalise_answer("The two dogs, dont run."), "2 dogs don't run");
/// ```
pub fn normalise_answer(answer: &str) -> String {
    let answer = answer.replace(['\n', '\t'], " ");
    let text = without_punctuation(answer.trim()).to_lowercase();
    let words = text.split(is_white).filter(|word| !word.is_empty());
    let digits =
        words.map(|word| NUMBERS.iter().find(|(name, _)| *name == word).map_or(word, |(_, digits)| digits));
    let words: Vec<&str> = digits.filter(|word| !ARTICLES.contains(word)).map(with_apostrophe).collect();
    words.join(" ")
}

/// White space as Python splits at it.
fn is_white(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

fn with_apostrophe(word: &str) -> &str {
    let pairs = CONTRACTIONS.split_whitespace().filter_map(|pair| pair.split_once(':'));
    pairs.into_iter().find(|(without, _)| *without == word).map_or(word, |(_, with)| with)
}

/// Removes punctuation that has a space at its side, all of it if a comma stands between digits, and writes spaces
/// for the rest; then removes periods that no digit follows.
fn without_punctuation(answer: &str) -> String {
    let chars: Vec<char> = answer.chars().collect();
    let comma = chars.windows(3).any(|part| is_digit(part[0]) && part[1] == ',' && is_digit(part[2]));
    let spaced = |mark: char| chars.windows(2).any(|pair| pair == [mark, ' '] || pair == [' ', mark]);
    let removed: Vec<char> = PUNCTUATION.chars().filter(|&mark| comma || spaced(mark)).collect();
    let kept = chars.iter().filter(|c| !removed.contains(c));
    let text: Vec<char> = kept.map(|&c| if PUNCTUATION.contains(c) { ' ' } else { c }).collect();
    let mut periods = 0;
    let stays = |(i, &c): (usize, &char)| {
        let goes = c == '.' && periods < MOST_PERIODS && !text.get(i + 1).is_some_and(|&next| is_digit(next));
        periods += usize::from(goes);
        (!goes).then_some(c)
    };
    text.iter().enumerate().filter_map(stays).collect()
}

/// Accuracy of a predicted answer to a question with the answers of several people (VQAv2, OK-VQA, TextVQA, VizWiz),
/// from 0 to 1: the mean over the people of min(1, matches among the others / 3), after [`normalise_answer`] of all.
///
/// Source: Goyal et al. 2017, `vqaEval.py`. The first version of that script normalises only if the answers of the
/// people differ; open_flamingo always does, and so does this.
///
/// # Errors
/// There are no answers.
pub fn vqa_accuracy(prediction: &str, answers: &[impl AsRef<str>]) -> Result<f64, MetricError> {
    if answers.is_empty() {
        return Err(MetricError::NoReference(0));
    }
    let matches = matches(prediction, answers);
    let score = |others: usize| (others as f64 / 3.0).min(1.0);
    let of_matching = matches as f64 * score(matches.saturating_sub(1));
    let of_others = (answers.len() - matches) as f64 * score(matches);
    Ok((of_matching + of_others) / answers.len() as f64)
}

/// Count of the answers that equal the prediction after normalisation.
fn matches(prediction: &str, answers: &[impl AsRef<str>]) -> usize {
    let prediction = normalise_answer(prediction);
    answers.iter().filter(|answer| normalise_answer(answer.as_ref()) == prediction).count()
}

/// Whether a predicted answer equals the reference after [`normalise_answer`]: top-1 accuracy of one item of MSVD-QA,
/// MSRVTT-QA and other benchmarks with one answer per question.
pub fn exact_match(prediction: &str, answer: &str) -> bool {
    matches(prediction, &[answer]) == 1
}

/// Accuracy of iVQA for one item, from 0 to 1: min(1, people with the same answer / 2), after [`normalise_answer`] of
/// all.
///
/// Source: Yang et al. 2021 (Just Ask), section 5.
///
/// # Errors
/// There are no answers.
pub fn ivqa_accuracy(prediction: &str, answers: &[impl AsRef<str>]) -> Result<f64, MetricError> {
    if answers.is_empty() {
        return Err(MetricError::NoReference(0));
    }
    Ok((matches(prediction, answers) as f64 / 2.0).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_normalised() {
        for (answer, expected) in [
            ("The cat.", "cat"),
            ("one", "1"),
            ("black/white", "black white"),
            ("black / white", "black white"),
            ("1,000 men-at-arms", "1000 menatarms"),
            ("2.5 a.m.", "2.5 am"),
            ("he doesnt know", "he doesn't know"),
            ("", ""),
            ("a", ""),
        ] {
            assert_eq!(normalise_answer(answer), expected, "{answer:?}");
        }
    }

    #[test]
    fn vqa_accuracy_leaves_each_answer_out() {
        let answers = |yes: usize| [vec!["Yes"; yes], vec!["no"; 10 - yes]].concat();
        for (yes, expected) in [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)] {
            let accuracy = vqa_accuracy("yes.", &answers(yes)).unwrap();
            assert!((accuracy - expected).abs() < 1e-12, "{yes}: {accuracy}");
        }
        assert_eq!(vqa_accuracy("yes", &[] as &[&str]), Err(MetricError::NoReference(0)));
    }

    #[test]
    fn ivqa_needs_two_people() {
        assert_eq!(ivqa_accuracy("a knife", &["knife", "spoon", "Knife", "knife"]), Ok(1.0));
        assert_eq!(ivqa_accuracy("spoon", &["knife", "spoon"]), Ok(0.5));
        assert_eq!(ivqa_accuracy("fork", &["knife"]), Ok(0.0));
        assert!(exact_match("The Two", "2") && !exact_match("dogs", "dog"));
    }
}
