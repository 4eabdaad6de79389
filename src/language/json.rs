//! Typed reads of the keys of a `config.json`. An error is the reason, without the file's name.

use serde_json::Value;

/// Reads a size.
pub(crate) fn size(json: &Value, key: &str) -> Result<usize, String> {
    let value = required(json, key)?;
    let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
    number.ok_or_else(|| format!("`{key}` is {value}, not a size"))
}

/// Reads a number.
pub(crate) fn number(json: &Value, key: &str) -> Result<f64, String> {
    let value = required(json, key)?;
    value.as_f64().ok_or_else(|| format!("`{key}` is {value}, not a number"))
}

/// Reads true or false.
pub(crate) fn flag(json: &Value, key: &str) -> Result<bool, String> {
    let value = required(json, key)?;
    value.as_bool().ok_or_else(|| format!("`{key}` is {value}, neither true nor false"))
}

/// Reads a text.
pub(crate) fn text(json: &Value, key: &str) -> Result<String, String> {
    let value = required(json, key)?;
    value.as_str().map(str::to_owned).ok_or_else(|| format!("`{key}` is {value}, not a text"))
}

/// Reads an optional key: absent or null is `None`, another type is an error.
pub(crate) fn optional<T>(
    json: &Value,
    key: &str,
    read: fn(&Value, &str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => read(json, key).map(Some),
    }
}

/// Refuses a flag that differs from the only value that this build runs.
pub(crate) fn only(json: &Value, key: &str, value: bool) -> Result<(), String> {
    match optional(json, key, flag)? {
        Some(found) if found != value => {
            Err(format!("`{key}` is {found}: this build runs models with {value} only"))
        }
        _ => Ok(()),
    }
}

fn required<'a>(json: &'a Value, key: &str) -> Result<&'a Value, String> {
    json.get(key).ok_or_else(|| format!("`{key}` is missing"))
}

/// Refuses sizes that no model has, before any allocation depends on them.
pub(crate) fn check_sizes(sizes: &[(&str, usize)]) -> Result<(), String> {
    /// Far above every published model, low enough that no product of two sizes overflows.
    const LIMIT: usize = 1 << 24;
    match sizes.iter().find(|(_, size)| !(1..=LIMIT).contains(size)) {
        Some((name, size)) => Err(format!("the {name} is {size}, not between 1 and {LIMIT}")),
        None => Ok(()),
    }
}

/// Refuses an epsilon of a normalisation that is not positive.
pub(crate) fn check_eps(eps: f64) -> Result<(), String> {
    if eps.is_finite() && eps > 0.0 { Ok(()) } else { Err(format!("epsilon {eps} must be positive")) }
}
