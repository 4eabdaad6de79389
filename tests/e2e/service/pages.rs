//! The pages of a worker, over plain HTTP and in a browser: they show jobs, answers and errors, escape untrusted text, and
//! change nothing without the token.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use image::ImageFormat;
use lapin::BasicProperties;
use serde_json::json;

use super::broker::Broker;
use super::world::{World, wait};

/// A secret in the form that check_secrets.sh searches for.
const TOKEN: &str = "hunter2-00112233445566778899aabb";
const HOSTILE: &str = "<script>alert(1)</script>";
const ESCAPED: &str = "&lt;script&gt;alert(1)&lt;/script&gt;";

struct Site {
    port: u16,
}

/// HTTP response.
struct Response {
    head: String,
    body: Vec<u8>,
}

impl Response {
    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    #[track_caller]
    fn is(self, status: u16) -> Self {
        assert!(self.head.starts_with(&format!("HTTP/1.1 {status} ")), "{}\n{}", self.head, self.text());
        self
    }

    #[track_caller]
    fn contains(self, wanted: &[&str]) -> Self {
        let text = self.text();
        for wanted in wanted {
            assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
        }
        assert!(!text.contains(HOSTILE) && !text.contains(TOKEN), "{text}");
        self
    }
}

impl Site {
    fn send(&self, request: &str) -> Response {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("an answer has a head");
        Response {
            head: String::from_utf8_lossy(&answer[..end]).to_lowercase().replacen("http", "HTTP", 1),
            body: answer[end + 4..].to_vec(),
        }
    }

    fn get(&self, path: &str) -> Response {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n"))
    }

    /// Posts the form of the dead letters, with additional header lines.
    fn post(&self, form: &str, head: &str) -> Response {
        let length = form.len();
        self.send(&format!(
            "POST /dead/redrive HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n{head}Content-Length: {length}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}"
        ))
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

/// Enables the pages of a world. Returns it with the site.
fn with_pages(mut world: World) -> (World, Site) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    world.set("FLAMINGO__STATUS__ADDRESS", &format!("127.0.0.1:{port}"));
    world.set("FLAMINGO__STATUS__TOKEN", TOKEN);
    world.set("FLAMINGO__STORE__SHEETS", "true");
    (world, Site { port })
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn pages_show_a_job_with_answers_and_errors() {
    let (world, site) = with_pages(World::new("pages"));
    world.upload_clips(&[("a.mp4", "short"), ("b.webm", "vp8")]);
    world.upload("<script>bad.mp4", b"no video".to_vec());
    let _worker = world.worker("shown-worker");
    let tasks = json!([{ "kind": "caption" }, { "kind": "question", "question": HOSTILE }]);
    world.submit(&[world.job("shown", json!({ "tasks": tasks }))]).exits(0);
    let shown = world.ended("shown");
    assert_eq!(shown["status"], "partially_succeeded", "{shown:#}");
    let items = shown["items"].as_array().unwrap();
    let bad = items.iter().find(|item| item["status"] == "failed").unwrap()["item_id"].as_str().unwrap();

    let first = site.get("/").is(200).contains(&[
        "shown-worker",
        "href=\"/jobs/shown\"",
        "partially succeeded",
        "2 of 3 videos, 1 failed",
    ]);
    for line in [
        "content-security-policy: default-src 'none'",
        "x-content-type-options: nosniff",
        "cache-control: no-store",
        "referrer-policy: no-referrer",
    ] {
        assert!(first.head.contains(line), "{line} is not in\n{}", first.head);
    }
    assert!(!first.text().contains("http-equiv"), "a page of ended jobs refreshes itself");
    let answers = world.result_json("shown/items/a.mp4.json");
    let caption = answers["answers"][0]["text"].as_str().unwrap();
    let caption =
        caption.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    site.get("/jobs/shown").is(200).contains(&[
        "100 %",
        "a.mp4",
        "b.webm",
        "unknown_container",
        ESCAPED,
        &caption,
    ]);
    site.get("/jobs/shown?after=b.webm").is(200);
    site.get("/jobs/shown?after=unknown").is(404);
    site.get("/jobs/unknown").is(404).contains(&["no such job"]);
    site.get("/jobs/%3Cscript%3E").is(404);
    site.get("/nowhere").is(404);

    site.get("/jobs/shown/items/a.mp4").is(200).contains(&[
        ESCAPED,
        &caption,
        "/jobs/shown/items/a.mp4/sheet.jpg",
        "decode",
        "shown-worker",
    ]);
    let sheet = site.get("/jobs/shown/items/a.mp4/sheet.jpg").is(200);
    assert!(sheet.head.contains("content-type: image/jpeg"), "{}", sheet.head);
    let picture = image::load_from_memory_with_format(&sheet.body, ImageFormat::Jpeg).unwrap();
    assert!(picture.width() > 100 && colours(&picture.to_rgb8()) > 8);
    site.get(&format!("/jobs/shown/items/{bad}"))
        .is(200)
        .contains(&["unknown_container", "&lt;script&gt;bad.mp4"]);
    site.get(&format!("/jobs/shown/items/{bad}/sheet.jpg")).is(404);
    site.get("/jobs/shown/items/unknown").is(404);

    for (name, path, wanted) in [
        ("overview", "/", "partially succeeded"),
        ("job", "/jobs/shown", "unknown_container"),
        ("item", "/jobs/shown/items/a.mp4", "sheet.jpg"),
        ("dead", "/dead", "Send again"),
    ] {
        let picture = screenshot(&world, name, &site.url(path));
        let picture = image::open(picture).unwrap().to_rgb8();
        assert_eq!(picture.width(), 1200);
        assert!(colours(&picture) > 20, "{name} is blank");
        let dom = browse(&world, &["--dump-dom", &site.url(path)]);
        assert!(dom.contains(wanted) && !dom.contains("<script"), "{dom}");
    }
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn redriving_a_dead_letter_needs_the_token() {
    let (world, site) = with_pages(World::with_trace_log("pages"));
    let worker = world.worker("worker");
    let named = BasicProperties::default().with_message_id(HOSTILE.into());
    Broker::of(&world).send(b"{\"schema\": \"flamingo.job/1\", ", named);
    let listed = wait("a dead letter", || {
        Some(site.get("/dead").is(200)).filter(|page| page.text().contains("malformed_message"))
    });
    listed.contains(&[ESCAPED, "Send again", "type=\"password\""]);

    let letter = "letter=%3Cscript%3Ealert%281%29%3C%2Fscript%3E";
    let right = format!("{letter}&token={TOKEN}");
    site.post(letter, "").is(403);
    site.post(&format!("{letter}&token=hunter2"), "").is(403).contains(&["The token is wrong"]);
    site.post(&right, "Origin: http://elsewhere\r\n").is(403).contains(&["another site"]);
    site.post(&right, "Origin: null\r\n").is(403);
    site.post(&format!("letter=unknown&token={TOKEN}"), "").is(404);
    let refused = || worker.logged("malformed_message");
    let before = refused();
    site.post(&right, "Origin: http://worker\r\n").is(200).contains(&[ESCAPED, "was sent again"]);
    wait("the second refusal", || (refused() > before).then_some(()));

    assert!(!worker.log().contains(TOKEN), "the token is in the log");
    let config = world.flamingo(&["config"]).exits(0).out;
    assert!(config.contains("status.token") && !config.contains(TOKEN), "{config}");
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn pages_can_be_disabled_and_report_a_missing_database() {
    let (mut world, site) = with_pages(World::new("pages"));
    let off = world.spawn("off", world.command().args(["work", "--set", "status.pages=false"]));
    wait("a listener", || TcpStream::connect(("127.0.0.1", site.port)).ok());
    site.get("/live").is(200);
    for path in ["/", "/jobs/a", "/dead"] {
        site.get(path).is(404);
    }
    drop(off);

    // The flag overrides the variable.
    let address = world.env.iter().rfind(|(name, _)| name == "FLAMINGO__STATUS__ADDRESS").unwrap().1.clone();
    world.set("FLAMINGO__STATUS__ADDRESS", "");
    world.set("FLAMINGO__DATABASE__URL", "postgres://user@127.0.0.1:1/none");
    let _waiting = world.spawn("waiting", world.command().args(["work", "--status-addr", &address]));
    wait("a listener", || TcpStream::connect(("127.0.0.1", site.port)).ok());
    wait("the missing database", || site.get("/").text().contains("database: ").then_some(()));
    site.get("/").is(503).contains(&["not ready", "ledger: "]);
    site.get("/jobs/any").is(503).contains(&["ledger: "]);
}

fn colours(picture: &image::RgbImage) -> usize {
    picture.pixels().collect::<std::collections::HashSet<_>>().len()
}

fn screenshot(world: &World, name: &str, url: &str) -> PathBuf {
    let file = std::path::absolute(world.folder.join(format!("{name}.png"))).unwrap();
    browse(world, &[&format!("--screenshot={}", file.display()), "--window-size=1200,900", url]);
    file
}

/// Runs Chromium and returns its standard output.
fn browse(world: &World, arguments: &[&str]) -> String {
    let profile = tempfile::tempdir().unwrap();
    let user = format!("--user-data-dir={}", profile.path().display());
    let mut browser = Command::new("chromium");
    browser
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", &user])
        .args(arguments)
        .stdin(Stdio::null());
    let output = browser.output().expect("Chromium: scripts/install_packages.sh servers brings it");
    let log = String::from_utf8_lossy(&output.stderr);
    std::fs::write(world.folder.join("chromium.log"), log.as_bytes()).unwrap();
    assert!(output.status.success(), "{log}");
    String::from_utf8(output.stdout).unwrap()
}
