//! The files of WordNet (wndb(5WN)).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Part, WordNetError};

/// Set of synonyms.
pub(super) struct Synset {
    /// First word and number of its sense, which orders synsets of equal depth.
    pub(super) name: String,
    /// Indices of the hypernyms, also those of instances.
    pub(super) hypernyms: Vec<u32>,
    /// Length of the shortest path to a root.
    pub(super) least_depth: u32,
    /// Length of the longest path to a root.
    pub(super) greatest_depth: u32,
}

/// A line of `data.*`.
struct Record {
    offset: u32,
    word: String,
    /// Offsets of the hypernyms.
    hypernyms: Vec<u32>,
}

struct File {
    path: PathBuf,
    text: String,
}

impl File {
    fn read(folder: &Path, name: &str) -> Result<Self, WordNetError> {
        let path = folder.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Self { path, text: String::from_utf8_lossy(&bytes).into_owned() }),
            Err(source) => Err(WordNetError::Read { path, source }),
        }
    }

    /// Reads each line but those of the licence, which begin with a space.
    fn lines<T>(&self, read: impl Fn(&str) -> Result<T, &'static str>) -> Result<Vec<T>, WordNetError> {
        let lines =
            self.text.lines().enumerate().filter(|(_, line)| !line.starts_with(' ') && !line.is_empty());
        let error = |line, reason| WordNetError::Format { path: self.path.clone(), line: line + 1, reason };
        lines.map(|(i, line)| read(line).map_err(|reason| error(i, reason))).collect()
    }
}

/// Reads the files of a part of speech.
pub(super) fn read_part(folder: &Path, part: &str) -> Result<Part, WordNetError> {
    let data = File::read(folder, &format!("data.{part}"))?;
    let mut records = data.lines(record)?;
    records.sort_by_key(|record| record.offset);
    let place = |offset: u32| {
        let found = records.binary_search_by_key(&offset, |record| record.offset);
        found.map(|at| at as u32).map_err(|_| "there is no synset with this offset")
    };
    let index = File::read(folder, &format!("index.{part}"))?;
    let senses: HashMap<String, Vec<u32>> = index
        .lines(|line| {
            let (word, offsets) = senses(line)?;
            Ok((word, offsets.into_iter().map(place).collect::<Result<Vec<_>, _>>()?))
        })?
        .into_iter()
        .collect();
    let mut synsets = Vec::with_capacity(records.len());
    for (at, record) in records.iter().enumerate() {
        let hypernyms = record.hypernyms.iter().filter_map(|&offset| place(offset).ok()).collect();
        let number =
            senses.get(&record.word).and_then(|all| all.iter().position(|&other| other == at as u32));
        let name = format!("{}.{}.{:02}", record.word, &part[..1], number.map_or(0, |number| number + 1));
        synsets.push(Synset { name, hypernyms, least_depth: 0, greatest_depth: 0 });
    }
    if !set_depths(&mut synsets) {
        return Err(WordNetError::Cycle { path: data.path });
    }
    let exceptions = File::read(folder, &format!("{part}.exc"))?.lines(|line| {
        let mut words = line.split_whitespace().map(String::from);
        Ok((words.next().ok_or("a line is empty")?, words.collect()))
    })?;
    Ok(Part { senses, exceptions: exceptions.into_iter().collect(), synsets })
}

/// Reads a line of `index.*`: a word and the offsets of its synsets.
fn senses(line: &str) -> Result<(String, Vec<u32>), &'static str> {
    const NUMBER: &str = "a number is missing";
    let mut fields = line.split_whitespace();
    let word = fields.next().ok_or("a word is missing")?;
    let count: usize = fields.nth(1).and_then(|field| field.parse().ok()).ok_or(NUMBER)?;
    let pointers: usize = fields.next().and_then(|field| field.parse().ok()).ok_or(NUMBER)?;
    let offsets: Option<Vec<u32>> =
        fields.skip(pointers.saturating_add(2)).map(|field| field.parse().ok()).collect();
    let offsets = offsets.filter(|offsets| offsets.len() == count && count > 0);
    Ok((word.to_string(), offsets.ok_or("the offsets are not as many as the senses")?))
}

/// Reads a line of `data.*`.
fn record(line: &str) -> Result<Record, &'static str> {
    let mut fields = line.split_whitespace();
    let offset = fields.next().and_then(|field| field.parse().ok()).ok_or("the offset is missing")?;
    let count = fields.nth(2).and_then(|field| usize::from_str_radix(field, 16).ok());
    let word = fields.next().ok_or("the word is missing")?;
    // An adjective may have a mark of its place, as in `afraid(p)`.
    let word = word.split('(').next().unwrap_or(word).to_lowercase();
    let others = count.and_then(|count| count.checked_sub(1)).ok_or("the count of words is missing")?;
    let pointers =
        fields.nth(others.saturating_mul(2).saturating_add(1)).and_then(|field| field.parse::<usize>().ok());
    let mut hypernyms = Vec::new();
    for _ in 0..pointers.ok_or("the count of pointers is missing")? {
        let symbol = fields.next().ok_or("a pointer is missing")?;
        let target = fields.next().and_then(|field| field.parse().ok()).ok_or("a pointer has no offset")?;
        fields.nth(1).ok_or("a pointer is not complete")?;
        if symbol == "@" || symbol == "@i" {
            hypernyms.push(target);
        }
    }
    Ok(Record { offset, word, hypernyms })
}

/// Computes the depths from the roots down. Returns whether there is no cycle.
fn set_depths(synsets: &mut [Synset]) -> bool {
    let mut hyponyms: Vec<Vec<u32>> = vec![Vec::new(); synsets.len()];
    for (at, synset) in synsets.iter().enumerate() {
        synset.hypernyms.iter().for_each(|&hypernym| hyponyms[hypernym as usize].push(at as u32));
    }
    let mut waiting: Vec<usize> = synsets.iter().map(|synset| synset.hypernyms.len()).collect();
    let mut ready: Vec<usize> = (0..synsets.len()).filter(|&at| waiting[at] == 0).collect();
    let mut done = 0;
    while let Some(at) = ready.pop() {
        done += 1;
        let above = synsets[at].hypernyms.iter().map(|&hypernym| &synsets[hypernym as usize]);
        let least = above.clone().map(|synset| synset.least_depth + 1).min().unwrap_or(0);
        let greatest = above.map(|synset| synset.greatest_depth + 1).max().unwrap_or(0);
        (synsets[at].least_depth, synsets[at].greatest_depth) = (least, greatest);
        for &hyponym in &hyponyms[at] {
            waiting[hyponym as usize] -= 1;
            if waiting[hyponym as usize] == 0 {
                ready.push(hyponym as usize);
            }
        }
    }
    done == synsets.len()
}
