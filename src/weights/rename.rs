//! Tables from the names of a checkpoint to ours.

use std::path::PathBuf;

/// Treatment of a tensor of a file, decided by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rename {
    /// The model knows the tensor under this name.
    To(String),
    /// The tensor holds several of the model's tensors, of equal sizes, one after the other along its first axis.
    Parts(Vec<String>),
    /// The tensor is one of several that follow each other along the first axis of the model's tensor, in the order of their
    /// numbers: an embedding and the rows that a checkpoint added to it.
    Rows {
        /// Name of the whole.
        whole: String,
        /// Place of this tensor in it, from 0 without gaps.
        index: usize,
    },
    /// The model knows the elements of the tensor under this name, as a tensor of one axis.
    Flat(String),
    /// The model knows the tensor under this name, as a matrix whose rows are all axes but the last.
    Matrix(String),
    /// The model has another number of rows: those beyond are dropped, those that the file lacks are zero.
    Resized {
        /// Name of the model's tensor.
        name: String,
        /// Length of its first axis.
        rows: usize,
    },
    /// The tensor is known and not loaded (a classifier head, a buffer that the model computes).
    Ignore,
}

impl Rename {
    /// Prefixes the names of the model with `prefix`.
    pub fn below(self, prefix: &str) -> Self {
        let full = |name: String| format!("{prefix}.{name}");
        match self {
            Self::To(name) => Self::To(full(name)),
            Self::Parts(names) => Self::Parts(names.into_iter().map(full).collect()),
            Self::Rows { whole, index } => Self::Rows { whole: full(whole), index },
            Self::Flat(name) => Self::Flat(full(name)),
            Self::Matrix(name) => Self::Matrix(full(name)),
            Self::Resized { name, rows } => Self::Resized { name: full(name), rows },
            Self::Ignore => Self::Ignore,
        }
    }
}

/// Files of a checkpoint, and the table from their names to ours.
pub struct Layer<'a> {
    /// Shards of the checkpoint.
    pub files: &'a [PathBuf],
    /// Table.
    pub rename: &'a dyn Fn(&str) -> Rename,
}
