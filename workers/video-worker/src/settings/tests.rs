//! Tests of loading settings.

use super::load::DEFAULTS;
use super::*;

#[test]
fn default_file_explains_every_setting() {
    let (_, origins) = load(None, &[]).unwrap();
    assert!(origins.len() > 30, "{origins:?}");
    for origin in origins {
        let name = origin.setting.rsplit('.').next().unwrap();
        let at = DEFAULTS.lines().position(|line| line.starts_with(&format!("{name} ="))).unwrap();
        assert!(DEFAULTS.lines().nth(at - 1).unwrap().starts_with('#'), "{}", origin.setting);
    }
}

#[test]
fn decoder_limits_equal_library_defaults() {
    assert_eq!(load(None, &[]).unwrap().0.process(), ProcessLimits::default());
}

#[test]
fn engine_limits_equal_library_defaults() {
    assert_eq!(load(None, &[]).unwrap().0.engine, EngineLimits::default());
}

#[test]
fn flag_overrides_file_and_origins_name_both() {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(&file, "[worker]\nitems = 5\nattempts = 7\n").unwrap();
    let flags = [("worker.items".to_owned(), "9".to_owned())];
    let (settings, origins) = load(Some(file.path()), &flags).unwrap();
    assert_eq!((settings.worker.items, settings.worker.attempts), (9, 7));
    let from = |name: &str| origins.iter().find(|o| o.setting == name).unwrap().from.clone();
    assert_eq!(from("worker.items"), "a flag");
    assert!(from("worker.attempts").ends_with(".toml"), "{}", from("worker.attempts"));
    assert_eq!(from("worker.lease"), "built in");
}

#[test]
fn token_is_compared_and_not_displayed() {
    let token = "0123456789abcdef";
    let (settings, origins) = load(None, &[("status.token".to_owned(), token.to_owned())]).unwrap();
    assert!(settings.status.token.is(token));
    for wrong in ["", "0123456789abcdeF", "0123456789abcdef0", "***"] {
        assert!(!settings.status.token.is(wrong), "{wrong}");
    }
    assert!(!format!("{settings:?} {origins:?}").contains(token));
    assert_eq!(origins.iter().find(|o| o.setting == "status.token").unwrap().value, "***");
    assert_eq!(load(None, &[]).unwrap().0.status.token.to_string(), "");
}

#[test]
fn rejects_invalid_settings() {
    let amqp = ("queue.url", "amqp://u:hidden@h");
    for (flags, expected) in [
        (vec![("worker.items", "0")], "worker.items is 0"),
        (vec![("worker.heartbeat", "40s")], "worker.heartbeat is not below half"),
        (vec![("worker.itmes", "1")], "itmes"),
        (vec![("decoder.silence", "20ms")], "whole seconds"),
        (vec![("decoder.sandbox", "none")], "sandbox"),
        (vec![amqp], "inputs.allow is empty"),
        (vec![amqp, ("inputs.allow", "s3://b"), ("worker.item_deadline", "29m")], "consumer_timeout"),
        (vec![("inputs.allow", "http://b")], "read from s3://"),
        (vec![("status.token", "hidden")], "status.token is shorter"),
        (vec![("queue.retry_delays", "1s,amqp://u:hidden@h")], "in place 2"),
        (vec![("queue.retry_delays", "-1s")], "in place 1"),
        (vec![("inputs.allow", "s3://u:hidden@h/videos")], "s3://***@h/videos"),
        (vec![("decoder.sandbox", "amqp://u:hidden@h")], "sandbox"),
        (vec![("worker.lease", "amqp://u:hidden@h")], "lease"),
    ] {
        let flags: Vec<_> = flags.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let error = load(None, &flags).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("hidden"), "{error}");
    }
}

#[test]
fn accepts_the_old_names_of_renamed_settings() {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(&file, "[worker]\npatience = \"7s\"\n").unwrap();
    let (settings, origins) = load(Some(file.path()), &[]).unwrap();
    assert_eq!(settings.worker.retry_timeout, Duration::from_secs(7));
    let origin = origins.iter().find(|o| o.setting == "worker.retry_timeout").unwrap();
    assert!(origin.from.ends_with(".toml"), "{origin:?}");
    let flags = [("worker.patience".to_owned(), "8s".to_owned())];
    let (settings, origins) = load(Some(file.path()), &flags).unwrap();
    assert_eq!(settings.worker.retry_timeout, Duration::from_secs(8));
    assert_eq!(origins.iter().find(|o| o.setting == "worker.retry_timeout").unwrap().from, "a flag");
}
