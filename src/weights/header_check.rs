//! Check of a checkpoint by the headers of its files: names and shapes, without values.

use std::sync::{Arc, Mutex};

use crate::error::Result;

/// Record of a load that reads headers only. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct HeaderCheck(Arc<Mutex<Vec<String>>>);

impl HeaderCheck {
    /// Keeps the text of an error.
    pub(super) fn record(&self, checked: Result<()>) {
        if let Err(error) = checked {
            self.0.lock().expect("header check lock").push(error.to_string());
        }
    }

    /// Returns a sentence per tensor that is missing or has another shape, and one per part with the number and the first names of
    /// its unused tensors.
    pub fn problems(&self) -> Vec<String> {
        self.0.lock().expect("header check lock").clone()
    }
}
