//! `preprocessor_config.json` of a Hugging Face directory.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::language::hugging_face::read_json;
use crate::language::json::{optional, size};
use crate::vision::{Fit, Preprocess};

/// Name of the file.
const FILE: &str = "preprocessor_config.json";
/// Mean and standard deviation of CLIP, for a directory without the file or a file without them.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
/// Number of `resample` of Pillow's bicubic filter.
const BICUBIC: usize = 3;

/// A read `preprocessor_config.json`, or none.
pub(super) struct Preprocessor {
    path: PathBuf,
    json: Value,
}

impl Preprocessor {
    /// Reads the file. A directory without it has the values of CLIP.
    ///
    /// # Errors
    /// The file is not JSON or too long.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        let json = if path.exists() { read_json(&path)? } else { Value::Null };
        Ok(Self { path, json })
    }

    fn error(&self, reason: String) -> Error {
        Error::Config { path: self.path.clone(), reason }
    }

    /// Refuses a size, at a path of keys, that differs from the one of `config.json`. An absent one agrees.
    ///
    /// # Errors
    /// The two sizes.
    pub fn only_size(&self, keys: &[&str], expected: usize) -> Result<()> {
        let (last, outer) = keys.split_last().expect("a path has a key");
        let object = outer.iter().fold(&self.json, |json, key| json.get(key).unwrap_or(&Value::Null));
        match optional(object, last, size).map_err(|e| self.error(e))? {
            Some(found) if found != expected => {
                Err(self.error(format!("`{}` is {found}, but the model takes {expected}", keys.join("."))))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a size that differs from the one of `config.json`: a number, or an object with one of the keys of a square.
    ///
    /// # Errors
    /// The two sizes.
    pub fn only_square(&self, key: &str, expected: usize) -> Result<()> {
        match self.json.get(key) {
            Some(Value::Object(_)) => ["shortest_edge", "height", "width"]
                .iter()
                .try_for_each(|side| self.only_size(&[key, side], expected)),
            _ => self.only_size(&[key], expected),
        }
    }

    /// Returns the preprocessing to `side` pixels with the mean and the standard deviation of the file.
    ///
    /// # Errors
    /// A value has another type, or the file names another filter than bicubic.
    pub fn preprocess(&self, fit: Fit, side: usize) -> Result<Preprocess> {
        self.only_size(&["resample"], BICUBIC)?;
        let channels = |key: &str, default: [f32; 3]| match self.json.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => serde_json::from_value(value.clone())
                .map_err(|_| self.error(format!("`{key}` is {value}, not three numbers"))),
        };
        let (mean, std) = (channels("image_mean", MEAN)?, channels("image_std", STD)?);
        // The checks of a description: the side, and deviations above 0.
        let json = serde_json::json!({ "fit": fit, "size": side, "mean": mean, "std": std });
        serde_json::from_value(json).map_err(|e| self.error(e.to_string()))
    }
}
