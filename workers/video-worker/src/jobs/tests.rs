//! Tests of reports, results and manifests on a store and a ledger in memory.

use std::time::Duration;

use flamingo::family::ModelInfo;
use jobs::job::NewItem;
use jobs::ledger::{ClaimOutcome, JobClaim, LedgerSettings};
use jobs::queue::Lane;
use jobs::secret_url::SecretUrl;
use jobs::state::JobEnd;
use jobs::store::StoreSettings;
use jobs::{Disposition, ItemId, RetryCost};
use serde_json::{Value, json};

use super::reports::{ReportError, put_report, read_report};
use super::retry_policy::report_stopped;
use super::*;
use crate::api::{ListedJob, MAX_REPORT_BYTES, Priority, report_key};

const NOW: i64 = 1_700_000_000_000;
const LEASE: Duration = Duration::from_secs(60);
const FREE: Disposition = Disposition::Retry(RetryCost::Free);

fn memory_store() -> Store {
    Store::open("memory://", &StoreSettings::default()).unwrap()
}

fn item_id(name: &str) -> ItemId {
    ItemId::try_from(name.to_owned()).unwrap()
}

fn job(over: Value) -> JobMessage {
    let mut job = json!({
        "schema": JOB_SCHEMA, "job_id": "birds", "tasks": [{"kind": "caption"}], "output": "team",
        "input": {"videos": ["a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4"]},
    });
    job.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
    JobMessage::read(job.to_string().as_bytes()).unwrap()
}

/// Returns an item of a job with some fields replaced.
fn listed(over: Value, name: &str) -> Item {
    let job = job(over);
    let id = job.to_new().unwrap().id;
    ListedJob::new(&job, &id, None).unwrap().item(item_id(name), name.into())
}

fn item(name: &str) -> Item {
    let item = listed(json!({}), name);
    Item { custom_id: Some(format!("custom {name}")), ..item }
}

/// Returns the report of an item about a success, with some fields replaced. `null` removes a field.
fn report(item: &Item, over: Value) -> Vec<u8> {
    let answer = json!({"text": "a cat", "start": 0.0, "end": 1.0, "frame_times": [[0.0]], "finish": "stop",
        "log_likelihood": -1.0, "prompt_tokens": 7, "completion_tokens": 3});
    let mut report = json!({
        "schema": "flamingo.item_report/1", "job_id": item.job_id, "item_id": item.item_id,
        "request_sha256": item.request_sha256(), "attempt": 1, "worker": "w",
        "input": {"url": item.video, "bytes": 9}, "fetch_s": 0.1, "status": "succeeded", "answers": [answer],
        "model": {"name": "mini", "family": "flamingo", "sha256": {}, "gates_open": true},
        "videos": [], "warnings": [],
        "timing": {"decode_s": 0.1, "encode_s": 0.1, "answer_s": 0.1, "total_s": 0.3},
    });
    report.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
    report.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    serde_json::to_vec(&report).unwrap()
}

/// Result of a call about an object: it is the report, or code and disposition of the failure.
type Outcome = Result<(), (String, Disposition)>;

/// Each object in the place of a report, when it is found and when a put finds it.
#[tokio::test]
async fn only_the_report_of_the_item_counts() {
    let item = item("a.mp4");
    let urgent = Item { priority: Priority::Urgent, ..item.clone() };
    let asks = |over: Value| Item { spec: listed(over, "a.mp4").spec, ..item.clone() };
    let other_tasks = asks(json!({"tasks": [{"kind": "question", "question": "Why?"}]}));
    let other_version = Item { etag: Some("e2".into()), ..item.clone() };
    let code = |code: &str, disposition| Err((code.to_owned(), disposition));
    let foreign = || code("foreign_report", Disposition::Fail);
    let cases: [(&str, Vec<u8>, Outcome); 12] = [
        ("its own", report(&item, json!({"attempt": 3})), Ok(())),
        ("of the version before", report(&item, json!({"request_sha256": null})), Ok(())),
        ("of an urgent job with the request", report(&urgent, json!({})), Ok(())),
        ("nothing", vec![], foreign()),
        ("rubbish", b"{\"hello\": 1}".to_vec(), foreign()),
        ("a list", b"[]".to_vec(), foreign()),
        ("of another job", report(&item, json!({"job_id": "cats"})), foreign()),
        ("of another item", report(&item, json!({"item_id": "b.mp4"})), foreign()),
        ("about another request", report(&other_tasks, json!({})), foreign()),
        ("about another version of the video", report(&other_version, json!({})), foreign()),
        ("of another kind", report(&item, json!({"schema": "flamingo.report/1"})), foreign()),
        (
            "of a newer build",
            report(&item, json!({"schema": "flamingo.item_report/2", "status": null})),
            code("newer_schema", FREE),
        ),
    ];
    for (case, object, expected) in cases {
        let store = memory_store();
        assert_eq!(read_report(&store, &item, MAX_REPORT_BYTES).await.unwrap(), None);
        store.put("team/birds/items/a.mp4.json", object.clone().into()).await.unwrap();
        let ours = report(&item, json!({"attempt": 8}));
        let read = read_report(&store, &item, MAX_REPORT_BYTES).await;
        let put = put_report(&store, &item, ours).await;
        for outcome in [read, put] {
            let outcome = outcome.map(|report| assert!(report.is_some(), "{case}")).map_err(|error| {
                assert!(error.to_string().starts_with("memory://team/birds/items/a.mp4.json: "), "{error}");
                let stopped = report_stopped(&error);
                (stopped.failure.code, stopped.disposition)
            });
            assert_eq!(outcome, expected, "{case}");
        }
        let kept = store.get("team/birds/items/a.mp4.json", 1 << 20).await.unwrap().unwrap();
        assert_eq!(kept, object, "{case}: an existing object stays");
    }
}

#[tokio::test]
async fn an_object_that_is_too_large_is_no_report() {
    let (store, item) = (memory_store(), item("a.mp4"));
    let object = vec![b' '; MAX_REPORT_BYTES as usize + 1];
    store.put("team/birds/items/a.mp4.json", object.into()).await.unwrap();
    let read = read_report(&store, &item, MAX_REPORT_BYTES).await;
    let put = put_report(&store, &item, report(&item, json!({}))).await;
    for outcome in [read, put] {
        assert!(matches!(outcome, Err(ReportError::Foreign { .. })), "{outcome:?}");
    }
}

/// Finalizing job with the items that a test gives: name, end and the object in the place of the report.
struct Finalizing {
    outputs: Outputs,
    claim: JobClaim,
}

type Ended<'a> = (&'a str, ItemEnd, Option<Vec<u8>>);

impl Finalizing {
    async fn new(items: &[Ended<'_>]) -> Self {
        let url = SecretUrl::new("sqlite::memory:");
        let ledger = Ledger::open(&url, &LedgerSettings::default()).await.unwrap();
        ledger.migrate().await.unwrap();
        let new = job(json!({})).to_new().unwrap();
        ledger.accept(&new, NOW).await.unwrap();
        let listing = ledger.claim_job(&new.id, "w", NOW, LEASE).await.unwrap().unwrap();
        let row = |name: &str| {
            let item = item(name);
            NewItem { id: item.item_id.clone(), queue: Lane::Items.into(), message: crate::api::json(&item) }
        };
        let rows: Vec<_> = items.iter().map(|(name, ..)| row(name)).collect();
        assert!(ledger.add_items(&listing, &rows, 0, NOW).await.unwrap());
        assert!(ledger.finish_listing(&listing, NOW).await.unwrap());
        let store = memory_store();
        for (name, end, object) in items {
            let claim = ledger.claim_item(&new.id, &item_id(name), "w", None, NOW, LEASE).await.unwrap();
            let ClaimOutcome::Claimed(claim) = claim else { panic!("{claim:?}") };
            assert!(ledger.end_item(&claim, end, NOW).await.unwrap());
            if let Some(object) = object {
                store.put(&report_key("team", &new.id, &claim.item), object.clone().into()).await.unwrap();
            }
        }
        let claim = ledger.claim_job(&new.id, "w", NOW, LEASE).await.unwrap().unwrap();
        let record = ledger.begin_finalizing(&claim, NOW).await.unwrap().unwrap();
        let outputs = Outputs { store, ledger, sheets: false };
        Self { outputs, claim: JobClaim { record, ..claim } }
    }

    async fn put(&self, key: &str, text: &str) {
        self.outputs.store.put(&format!("team/birds/{key}"), text.to_owned().into()).await.unwrap();
    }

    async fn text(&self, key: &str) -> Option<String> {
        let bytes = self.outputs.store.get(&format!("team/birds/{key}"), 1 << 20).await.unwrap();
        bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn lines(&self, key: &str) -> Vec<Value> {
        let text = self.text(key).await.unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn manifest(&self) -> Value {
        serde_json::from_str(&self.text("manifest.json").await.unwrap()).unwrap()
    }

    /// Writes the manifest of a job that ends so.
    async fn complete(&self, end: JobEnd) -> Result<(), Stopped> {
        let counts = self.outputs.ledger.counts(&self.claim.id).await.unwrap();
        let ended = EndedJob { record: self.claim.record.clone(), end, counts };
        let info = json!({"name": "mini", "family": "flamingo", "sha256": {}, "gates_open": true});
        let info: ModelInfo = serde_json::from_value(info).unwrap();
        self.outputs.write_manifest(&ended, &info, Tokens::default()).await
    }
}

fn failed(code: &str) -> ItemEnd {
    ItemEnd::Failed(Failure::new(code, "it failed"))
}

/// A succeeded item without its report is an error in the results and in the ledger; a failed one keeps its failure.
#[tokio::test]
async fn lost_reports_become_failures() {
    let states_failure =
        report(&item("e.mp4"), json!({"status": "failed", "error": {"code": "x", "message": "y"}}));
    let whole = failed("no_frames");
    let failed_report = report(
        &item("f.mp4"),
        json!({"attempt": 2, "status": "failed", "error": {"code": "no_frames", "message": ""}}),
    );
    let items = [
        ("a.mp4", ItemEnd::Succeeded, Some(report(&item("a.mp4"), json!({})))),
        ("b.mp4", ItemEnd::Succeeded, None),
        ("c.mp4", ItemEnd::Succeeded, Some(b"rubbish".to_vec())),
        ("d.mp4", ItemEnd::Succeeded, Some(report(&item("a.mp4"), json!({})))),
        ("e.mp4", ItemEnd::Succeeded, Some(states_failure)),
        ("f.mp4", whole, Some(failed_report)),
        ("g.mp4", failed("foreign_report"), Some(b"rubbish".to_vec())),
        ("h.mp4", failed("all"), None),
    ];
    let fixture = Finalizing::new(&items).await;
    // A crash after the first time repeats it.
    for _ in 0..2 {
        fixture.outputs.gather(&fixture.claim).await.unwrap();
        let results = fixture.lines("results.jsonl").await;
        assert_eq!(results.iter().map(|line| &line["item_id"]).collect::<Vec<_>>(), ["a.mp4"]);
        let errors = fixture.lines("errors.jsonl").await;
        let line = |line: &Value| {
            let of = |value: &Value| value.as_str().unwrap().to_owned();
            assert_eq!(line["custom_id"], format!("custom {}", of(&line["item_id"])));
            assert_eq!(line["input"]["url"], line["item_id"]);
            (of(&line["item_id"]), of(&line["error"]["code"]))
        };
        let expected = [
            ("b.mp4", "report_missing"),
            ("c.mp4", "report_changed"),
            ("d.mp4", "report_changed"),
            ("e.mp4", "report_changed"),
            ("f.mp4", "no_frames"),
            ("g.mp4", "foreign_report"),
            ("h.mp4", "all"),
        ];
        let expected = expected.map(|(id, code)| (id.to_owned(), code.to_owned()));
        assert_eq!(errors.iter().map(line).collect::<Vec<_>>(), expected);
        assert_eq!(errors[4]["attempt"], 2, "the report of a failed item counts");
        let rows = fixture.outputs.ledger.items(&fixture.claim.id, None, 100).await.unwrap();
        let codes = rows.into_iter().skip(1).map(|row| (row.id.to_string(), row.failure.unwrap().code));
        assert_eq!(codes.collect::<Vec<_>>(), expected);
        let counts = fixture.outputs.ledger.counts(&fixture.claim.id).await.unwrap();
        assert_eq!((counts.total, counts.succeeded, counts.failed), (8, 1, 7));
        // A report that comes back changes nothing: the item has failed.
        fixture
            .put("items/b.mp4.json", std::str::from_utf8(&report(&item("b.mp4"), json!({}))).unwrap())
            .await;
    }
}

#[tokio::test]
async fn gathering_counts_the_tokens_of_all_reports() {
    let failed_report =
        report(&item("b.mp4"), json!({"status": "failed", "error": {"code": "x", "message": "y"}}));
    let items = [
        ("a.mp4", ItemEnd::Succeeded, Some(report(&item("a.mp4"), json!({})))),
        ("b.mp4", failed("x"), Some(failed_report)),
        ("c.mp4", ItemEnd::Succeeded, None),
    ];
    let fixture = Finalizing::new(&items).await;
    let tokens = fixture.outputs.gather(&fixture.claim).await.unwrap();
    assert_eq!(tokens, Tokens { prompt: 14, completion: 6 });
}

#[tokio::test]
async fn a_stale_claim_fails_no_item() {
    let fixture = Finalizing::new(&[("a.mp4", ItemEnd::Succeeded, None)]).await;
    let stale = JobClaim { attempt: fixture.claim.attempt - 1, ..fixture.claim.clone() };
    let stopped = fixture.outputs.gather(&stale).await.unwrap_err();
    assert_eq!((stopped.failure.code.as_str(), stopped.disposition), ("stale_claim", Disposition::Cancelled));
    assert_eq!(fixture.outputs.ledger.counts(&fixture.claim.id).await.unwrap().succeeded, 1);
    assert_eq!(fixture.text("results.jsonl").await, None);
}

/// A manifest of something else stops the job, and nothing in the folder is replaced.
#[tokio::test]
async fn a_foreign_manifest_fails_the_job() {
    let other = |over: Value| {
        let mut manifest = json!({"schema": "flamingo.manifest/1", "job_id": "birds", "status": "succeeded"});
        manifest.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
        manifest.to_string()
    };
    for object in [
        String::new(),
        "{}".into(),
        other(json!({"job_id": "cats"})),
        other(json!({"schema": "cats/1"})),
        other(json!({"request_sha256": "another"})),
    ] {
        let report = report(&item("a.mp4"), json!({}));
        let fixture = Finalizing::new(&[("a.mp4", ItemEnd::Succeeded, Some(report))]).await;
        fixture.put("manifest.json", &object).await;
        fixture.put("results.jsonl", "of the other job").await;
        let before = fixture.outputs.check_manifest(&fixture.claim.record).await.unwrap_err();
        let gathering = fixture.outputs.gather(&fixture.claim).await.unwrap_err();
        let completing = fixture.complete(JobEnd::Succeeded).await.unwrap_err();
        for stopped in [before, gathering, completing] {
            assert_eq!(
                (stopped.failure.code.as_str(), stopped.disposition),
                ("foreign_manifest", Disposition::Fail)
            );
            assert!(stopped.failure.message.starts_with("memory://team/birds/manifest.json: "), "{stopped}");
        }
        assert_eq!(fixture.text("manifest.json").await, Some(object));
        assert_eq!(fixture.text("results.jsonl").await.as_deref(), Some("of the other job"));
        assert_eq!(fixture.text("errors.jsonl").await, None);
    }
}

/// The manifest of an earlier finalization of the same job stays if it states the same end.
#[tokio::test]
async fn an_earlier_manifest_of_the_job_is_no_obstacle() {
    let report = report(&item("a.mp4"), json!({}));
    let fixture = Finalizing::new(&[("a.mp4", ItemEnd::Succeeded, Some(report))]).await;
    fixture.complete(JobEnd::Succeeded).await.unwrap();
    let mut first = fixture.manifest().await;
    assert_eq!(first["request_sha256"], *fixture.claim.record.request_sha256);
    // As the version before writes it.
    first.as_object_mut().unwrap().remove("request_sha256");
    fixture.put("manifest.json", &first.to_string()).await;

    fixture.outputs.check_manifest(&fixture.claim.record).await.unwrap();
    fixture.outputs.gather(&fixture.claim).await.unwrap();
    fixture.complete(JobEnd::Succeeded).await.unwrap();
    assert_eq!(fixture.manifest().await, first, "the first manifest stays");
    fixture.complete(JobEnd::Failed(Failure::new("x", "y"))).await.unwrap();
    let replaced = fixture.manifest().await;
    assert_eq!((&replaced["status"], &replaced["error"]["code"]), (&json!("failed"), &json!("x")));
}
