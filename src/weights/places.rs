//! Locations of the tensors of a checkpoint, collected from its files under our names.

use std::collections::{BTreeMap, HashMap};

use super::Rename;
use super::stored::Stored;

/// Locations so far.
#[derive(Default)]
pub(super) struct Places {
    /// Several locations of one name are aliases.
    stored: HashMap<String, Vec<Stored>>,
    /// Tensors that follow each other along the first axis of a whole, by the name of the whole and their numbers.
    rows: BTreeMap<String, BTreeMap<usize, Vec<Stored>>>,
}

impl Places {
    /// Adds a tensor of a file.
    pub fn add(&mut self, rename: Rename, place: Stored) {
        let mut store = |ours: String, place| self.stored.entry(ours).or_default().push(place);
        match rename {
            Rename::To(ours) => store(ours, place),
            Rename::Flat(ours) => store(ours, Stored::Flat(Box::new(place))),
            Rename::Matrix(ours) => store(ours, Stored::Matrix(Box::new(place))),
            Rename::Parts(parts) => {
                let of = parts.len();
                for (index, ours) in parts.into_iter().enumerate() {
                    store(ours, Stored::Part { whole: Box::new(place.clone()), index, of });
                }
            }
            Rename::Rows { whole, index } => {
                self.rows.entry(whole).or_default().entry(index).or_default().push(place);
            }
            Rename::Resized { name, rows } => {
                store(name, Stored::Resized { whole: Box::new(place), rows });
            }
            Rename::Ignore => {}
        }
    }

    /// Returns the locations by our names.
    ///
    /// # Errors
    /// The name of a whole of which some rows are missing.
    pub fn finish(mut self) -> Result<HashMap<String, Vec<Stored>>, String> {
        for (whole, parts) in self.rows {
            if !parts.keys().copied().eq(0..parts.len()) {
                return Err(whole);
            }
            // Each part may have aliases, so there may be several wholes.
            let aliases = parts.values().map(Vec::len).max().unwrap_or(0);
            let rows = |alias: usize| {
                Stored::Rows(parts.values().map(|part| part[alias.min(part.len() - 1)].clone()).collect())
            };
            self.stored.entry(whole).or_default().extend((0..aliases).map(rows));
        }
        Ok(self.stored)
    }
}
