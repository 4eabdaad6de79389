//! URLs that may hold a password.

use std::fmt;

use serde::{Deserialize, Serialize};

/// URL that may hold a password. `Display` and `Debug` hide the password and the query.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// Returns the URL with its password, for the library that connects; never put it into a text.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns the part before `://`.
    pub fn scheme(&self) -> &str {
        self.0.split_once("://").map_or("", |(scheme, _)| scheme)
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        // Hide everything up to the last `@` before the path: a password may hold an unescaped `@` or `:`.
        let Some((scheme, rest)) = self.0.split_once("://") else { return f.write_str("(not a URL)") };
        let query = |text: &str| text.split('?').next().unwrap_or(text).to_owned();
        match rest.rfind('@') {
            Some(at) => write!(f, "{scheme}://***@{}", query(&rest[at + 1..])),
            None => write!(f, "{scheme}://{}", query(rest)),
        }
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_password_and_query() {
        for (url, shown) in [
            ("amqp://user:pa@ss/w@host:5672/vhost", "amqp://***@host:5672/vhost"),
            ("postgres://u:p@h/db?password=x", "postgres://***@h/db"),
            ("sqlite://./jobs.db?mode=rwc", "sqlite://./jobs.db"),
            ("memory://", "memory://"),
            ("u:p@h", "(not a URL)"),
        ] {
            assert_eq!(SecretUrl::new(url).to_string(), shown);
            assert_eq!(format!("{:?}", SecretUrl::new(url)), shown);
        }
    }
}
