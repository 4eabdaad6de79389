//! Selection of inputs below a folder or a prefix, for the command line and for jobs alike.
//!
//! Whatever is left out has a [`SkipReason`] and is counted. A file that a user names is never left out.

use std::path::Path;

mod file_url;
mod folder;
mod skip;

pub use file_url::{FileUrlError, file_url, parse_file_url};
pub use folder::{Entry, Found, walk};
pub use skip::{SkipReason, Skipped};

/// File name extensions of videos and images, in lower case. The decoder goes by content; these select files of a folder.
pub const EXTENSIONS: [&str; 18] = [
    "3g2", "3gp", "avi", "gif", "jpeg", "jpg", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts",
    "png", "ts", "webm", "webp",
];

/// Whether the name has the extension of a video or an image, in any case.
pub fn has_media_extension(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|found| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(found)))
}
