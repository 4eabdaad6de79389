//! Globs of prefix inputs.

use globset::{GlobBuilder, GlobMatcher};
use jobs::Failure;

/// Compiled glob: `*` does not cross folders, `**` does. The extension of a file matches in upper and lower case.
pub struct InputGlob(GlobMatcher);

impl InputGlob {
    /// Compiles a glob.
    ///
    /// # Errors
    /// `bad_request`: the text is not a glob.
    pub fn new(glob: &str) -> Result<Self, Failure> {
        let glob = GlobBuilder::new(glob).literal_separator(true).build();
        Ok(Self(glob.map_err(|e| Failure::new("bad_request", e.to_string()))?.compile_matcher()))
    }

    /// Whether a path relative to the prefix matches.
    pub fn is_match(&self, name: &str) -> bool {
        let with_extension = |change: fn(&str) -> String| {
            let (stem, extension) = name.rsplit_once('.')?;
            Some(format!("{stem}.{}", change(extension)))
        };
        let changed = [str::to_ascii_lowercase, str::to_ascii_uppercase].map(with_extension);
        self.0.is_match(name) || changed.iter().flatten().any(|name| self.0.is_match(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_match_in_any_case() {
        for (glob, name, expected) in [
            ("**/*.mkv", "day/walk.MKV", true),
            ("**/*.mkv", "walk.Mkv", true),
            ("**/*.MKV", "day/walk.mkv", true),
            ("*.{mkv,MOV}", "walk.mov", true),
            ("*.{mkv,MOV}", "day/walk.mov", false),
            ("Day/*.mkv", "day/walk.mkv", false),
            ("walk*", "Walk.mkv", false),
            ("*.mkv", "walk.MKVX", false),
            ("**", "walk", true),
            ("*", "x.y/walk", false),
        ] {
            assert_eq!(InputGlob::new(glob).unwrap().is_match(name), expected, "{glob} {name}");
        }
        assert_eq!(InputGlob::new("[").err().unwrap().code, "bad_request");
    }
}
