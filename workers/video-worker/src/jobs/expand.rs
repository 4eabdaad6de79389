//! Expansion of the inputs of a job into items.

use std::collections::{HashMap, HashSet};

use flamingo::digest::sha256;
use inference::analysis::AnalysisSpec;
use inference::listing::{SkipReason, Skipped};
use jobs::job::NewItem;
use jobs::ledger::{JobRecord, Ledger};
use jobs::queue::{Address, Route};
use jobs::worker::Page;
use jobs::{Failure, ItemId, JobId, Stopped};

use super::ServiceLimits;
use super::few_shot::fixed_support;
use super::retry_policy::listing_stopped;
use crate::api::{
    Input, InputGlob, Item, JobMessage, ListedJob, ManifestLine, PrefixCursor, json as to_json, lane,
};
use crate::inputs::{EntryKind, Inputs, Location, PrefixEntry};
use crate::support::StoredSets;

/// Items per page of an input list that is read whole for each page.
const LIST_PAGE: usize = 10_000;

/// Bytes before the text of files that some editors write.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Lists the inputs of jobs.
pub struct Listing<'a> {
    pub inputs: &'a Inputs,
    pub ledger: &'a Ledger,
    pub sets: &'a StoredSets,
    pub limits: &'a ServiceLimits,
}

impl Listing<'_> {
    /// Returns a page of items from `cursor` on.
    ///
    /// # Errors
    /// The inputs cannot be listed.
    pub async fn page(&self, record: &JobRecord, cursor: Option<&str>) -> Result<Page, Stopped> {
        let message = JobMessage::from_ledger(&record.message).map_err(Stopped::fail)?;
        if let Input::UnfinishedOf(earlier) = &message.input {
            return self.unfinished(&message, record, earlier, cursor).await;
        }
        let support = fixed_support(&message, record, self.ledger, self.sets).await?;
        let support = support.as_ref().map(|(version, set)| (version.clone(), set));
        let job = ListedJob::new(&message, &record.id, support).map_err(Stopped::fail)?;
        match &message.input {
            Input::Video(url) => self.list(&job, std::slice::from_ref(url), cursor),
            Input::Videos(urls) => self.list(&job, urls, cursor),
            Input::Prefix { url, glob } => self.prefix(&job, url, glob, cursor).await,
            Input::Manifest(url) => self.manifest(&job, url, cursor).await,
            Input::UnfinishedOf(_) => unreachable!("listed above"),
        }
    }

    /// Lists the videos of an earlier job without answers, each with the tasks it had there. A video that has changed since is
    /// taken in its current version.
    async fn unfinished(
        &self,
        job: &JobMessage,
        record: &JobRecord,
        earlier: &JobId,
        cursor: Option<&str>,
    ) -> Result<Page, Stopped> {
        match self.ledger.job(earlier).await? {
            Some(earlier) if !earlier.is_listed() => {
                return Err(fatal(
                    "not_listed",
                    format!("{}: the job ended before its inputs were listed completely", earlier.id),
                ));
            }
            Some(earlier) if earlier.state.is_end() => {}
            Some(_) => return Err(fatal("not_ended", format!("{earlier}: the job has not ended"))),
            None => return Err(fatal("not_found", format!("{earlier}: no such job in the ledger"))),
        }
        let cursor = cursor.and_then(|text| text.split_once(' '));
        let after = cursor
            .and_then(|(position, id)| Some((position.parse().ok()?, ItemId::try_from(id.to_owned()).ok()?)));
        let after = after.as_ref().map(|(position, id)| (*position, id));
        let rows = self.ledger.unfinished_items(earlier, after, self.limits.page as u32).await?;
        let next = rows.last().map(|(position, item)| format!("{position} {}", item.id));
        let item = |row: &NewItem| {
            let earlier_item = Item::parse(&row.message).map_err(|e| {
                fatal(
                    "malformed_message",
                    format!("{earlier}/{}: written by an incompatible build: {e}", row.id),
                )
            })?;
            let (job_id, output) = (record.id.clone(), job.output.clone());
            Ok(new_item(&Item { job_id, output, etag: None, priority: job.priority, ..earlier_item }))
        };
        let items = rows.iter().map(|(_, row)| item(row)).collect::<Result<_, Stopped>>()?;
        Ok(Page::until(items, next))
    }

    fn list(&self, job: &ListedJob, urls: &[String], cursor: Option<&str>) -> Result<Page, Stopped> {
        for url in urls {
            self.inputs.locate(url).map_err(|e| listing_stopped(&e))?;
        }
        let items = urls.iter().map(|url| job.item(item_id(&file_name(url)), url.clone()));
        Ok(slice(distinct(items.collect()), cursor))
    }

    async fn prefix(
        &self,
        job: &ListedJob<'_>,
        url: &str,
        glob: &str,
        cursor: Option<&str>,
    ) -> Result<Page, Stopped> {
        let prefix = self.inputs.locate(url).map_err(|e| listing_stopped(&e))?;
        let glob = InputGlob::new(glob).map_err(Stopped::fail)?;
        let PrefixCursor { after, is_complete, mut skipped } = PrefixCursor::parse(cursor);
        if is_complete {
            return Ok(Page {
                items: Vec::new(),
                cursor: cursor.unwrap_or_default().to_owned(),
                is_last: true,
            });
        }
        let page = self.inputs.page(&prefix, after.as_deref(), self.limits.page).await;
        let page = page.map_err(|e| listing_stopped(&e))?;
        let mut items = Vec::new();
        for PrefixEntry { name, kind } in page.entries {
            let item = |video: String| job.item(item_id(&name), video);
            let item = match kind {
                EntryKind::Skipped(reason) => Err(reason),
                EntryKind::UnreadableFolder { url, reason } => {
                    Ok(Item { refused: Some(reason), ..item(url) })
                }
                EntryKind::Input { .. } | EntryKind::BadName { .. } if !glob.is_match(&name) => {
                    Err(SkipReason::NotMatched)
                }
                EntryKind::Input { location, etag } => Ok(Item { etag, ..item(location.to_string()) }),
                EntryKind::BadName { url, reason } => Ok(Item { refused: Some(reason), ..item(url) }),
            };
            match item {
                Ok(item) => items.push(new_item(&item)),
                Err(reason) => {
                    tracing::debug!(job = %job.id(), %reason, name, "left out");
                    skipped.add(reason);
                }
            }
        }
        let is_last = page.next.is_none();
        let cursor = to_json(&PrefixCursor { after: page.next, is_complete: is_last, skipped });
        Ok(Page { items, cursor, is_last })
    }

    /// Lists a manifest. All of it is validated before the first item exists.
    async fn manifest(&self, job: &ListedJob<'_>, url: &str, cursor: Option<&str>) -> Result<Page, Stopped> {
        let location = self.inputs.locate(url).map_err(|e| listing_stopped(&e))?;
        let bytes = self
            .inputs
            .read(&location, self.limits.max_manifest_bytes)
            .await
            .map_err(|e| listing_stopped(&e))?;
        // The cursor names the version of the manifest it belongs to.
        let version = &sha256(&bytes)[..16];
        let place = match cursor.map(|cursor| cursor.split_once(' ').unwrap_or((cursor, ""))) {
            Some((place, of)) if of == version => Some(place),
            Some(_) => {
                return Err(fatal("changed", format!("{location}: has changed during listing")));
            }
            None => None,
        };
        let lines = manifest_items(self.inputs, job, &location, &bytes)?;
        let Page { items, cursor, is_last } = slice(lines, place);
        let cursor = if is_last { cursor } else { format!("{cursor} {version}") };
        Ok(Page { items, cursor, is_last })
    }
}

/// Returns the numbers of files and objects that the listing of a job has left out so far.
pub fn skipped(record: &JobRecord) -> Skipped {
    match JobMessage::from_ledger(&record.message) {
        Ok(JobMessage { input: Input::Prefix { .. }, .. }) => {
            PrefixCursor::parse(record.cursor.as_deref()).skipped
        }
        Ok(_) | Err(_) => Skipped::default(),
    }
}

/// Parses a manifest into items; fails as a whole if any line is invalid.
///
/// # Errors
/// The first invalid line.
pub fn manifest_items(
    inputs: &Inputs,
    job: &ListedJob,
    location: &Location,
    bytes: &[u8],
) -> Result<Vec<Item>, Stopped> {
    let mut ids = HashSet::new();
    let mut items = Vec::new();
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    for (n, line) in (1..).zip(bytes.split(|b| *b == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let bad = |why: String| fatal("bad_manifest", format!("{location}, line {n}: {why}"));
        let line: ManifestLine = serde_json::from_slice(line).map_err(|e| bad(e.to_string()))?;
        if line.custom_id.is_empty() || line.custom_id.len() > 512 {
            return Err(bad("`custom_id` is empty or longer than 512 bytes".into()));
        }
        let name = item_id(&line.custom_id);
        if !ids.insert(name.clone()) {
            return Err(bad(format!("custom_id {:?} is used on an earlier line too", line.custom_id)));
        }
        inputs.locate(&line.video).map_err(|e| bad(e.to_string()))?;
        let own = line.tasks(job.demands()).and_then(|own| own.map(|own| job.tasks(&own)).transpose());
        let own = own.map_err(|e| bad(e.to_string()))?;
        let item = job.item(name, line.video);
        let spec = match own {
            Some(tasks) => AnalysisSpec { tasks, ..item.spec },
            None => item.spec,
        };
        items.push(Item { custom_id: Some(line.custom_id), spec, ..item });
    }
    Ok(items)
}

fn fatal(code: &str, message: String) -> Stopped {
    Stopped::fail(Failure::new(code, message))
}

/// Returns an item id for the name of a video or the `custom_id` of a manifest line: the name itself if it is a plain name,
/// else its plain characters and part of its hash, so that two names never share an id.
pub fn item_id(name: &str) -> ItemId {
    let to_plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    ItemId::try_from(name.to_owned()).unwrap_or_else(|_| {
        let text: String = name.chars().map(to_plain).collect();
        // The end of a path is more specific than its start.
        let end = &text[text.len().saturating_sub(120)..];
        let id = format!("{end}-{}", &sha256(name.as_bytes())[..12]);
        ItemId::try_from(id.trim_start_matches(['.', '-']).to_owned()).expect("only plain characters")
    })
}

/// The last part of a path.
fn file_name(url: &str) -> String {
    url.trim_end_matches('/').rsplit('/').next().unwrap_or(url).to_owned()
}

/// Returns an item for the ledger. Only workers with the model that it names run it.
fn new_item(item: &Item) -> NewItem {
    let queue = Address { lane: lane(item.priority), route: item.model.as_ref().map(Route::new) };
    NewItem { id: item.item_id.clone(), queue, message: to_json(item) }
}

/// Makes ids unique: `a/x.mp4` and `b/x.mp4` share the name `x.mp4`; then all of that name get ids of their full paths.
fn distinct(items: Vec<Item>) -> Vec<Item> {
    let mut uses = HashMap::new();
    for item in &items {
        *uses.entry(item.item_id.clone()).or_insert(0) += 1;
    }
    let named = items.into_iter().map(|item| match uses[&item.item_id] {
        1 => item,
        _ => Item { item_id: item_id(&item.video), ..item },
    });
    named.collect()
}

/// Returns a page of a complete list; the cursor is its start index.
fn slice(items: Vec<Item>, cursor: Option<&str>) -> Page {
    let start: usize = cursor.and_then(|text| text.parse().ok()).unwrap_or(0);
    let end = start.saturating_add(LIST_PAGE).min(items.len());
    let next = (end < items.len()).then(|| end.to_string());
    Page::until(items.iter().skip(start).take(LIST_PAGE).map(new_item).collect(), next)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use flamingo::few_shot::SupportSet;
    use jobs::Disposition;
    use jobs::ledger::LedgerSettings;
    use jobs::secret_url::SecretUrl;
    use jobs::store::{Store, StoreSettings};

    use super::*;
    use crate::admission::Budget;
    use crate::api::SupportName;
    use crate::inputs::Disk;

    /// Ledger, store and inputs of listings with pages of `page` inputs.
    struct Fixture {
        ledger: Ledger,
        sets: StoredSets,
        inputs: Inputs,
        limits: ServiceLimits,
    }

    impl Fixture {
        async fn new(page: usize) -> Self {
            let url = SecretUrl::new("sqlite::memory:");
            let ledger = Ledger::open(&url, &LedgerSettings::default()).await.unwrap();
            ledger.migrate().await.unwrap();
            let sets = StoredSets::new(Store::open("memory://", &StoreSettings::default()).unwrap());
            let unlimited = || Budget::new(0);
            let disk = Disk { folder: std::env::temp_dir(), room: unlimited(), timeout: Duration::ZERO };
            let inputs = Inputs::new(Vec::new(), StoreSettings::default(), disk);
            let limits = ServiceLimits {
                page,
                max_manifest_bytes: 0,
                memory: unlimited(),
                frame_bytes: 0,
                retry_timeout: Duration::ZERO,
            };
            Self { ledger, sets, inputs, limits }
        }

        /// Enters a job about the videos in a folder.
        async fn accept(&self, folder: &Path, few_shot: serde_json::Value) -> JobRecord {
            let message = serde_json::json!({
                "schema": "flamingo.job/1", "job_id": "job", "tasks": [{"kind": "caption"}],
                "input": {"prefix": {"url": folder, "glob": "**/*.mp4"}}, "few_shot": few_shot,
            });
            let job = JobMessage::read(message.to_string().as_bytes()).unwrap();
            self.ledger.accept(&job.to_new().unwrap(), 0).await.unwrap();
            self.ledger.job(&job.job_id.unwrap()).await.unwrap().unwrap()
        }

        async fn page(&self, record: &JobRecord, cursor: Option<&str>) -> Result<Page, Stopped> {
            let Self { ledger, sets, inputs, limits } = self;
            Listing { inputs, ledger, sets, limits }.page(record, cursor).await
        }
    }

    /// A set that gets a new version while the inputs are listed; the listing may continue at another worker.
    #[tokio::test]
    async fn all_items_of_a_job_have_one_version_of_its_support_set() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.mp4", "b.mp4"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let fixture = Fixture::new(1).await;
        let record = fixture.accept(folder.path(), serde_json::json!({ "support": "birds" })).await;
        let missing = fixture.page(&record, None).await.unwrap_err();
        assert_eq!(
            (missing.failure.code.as_str(), missing.disposition),
            ("support_not_found", Disposition::Fail)
        );

        let add = async |output: &str| {
            let line = format!("{{\"media\":\"a.mp4\",\"output\":\"{output}\"}}");
            let set = SupportSet::from_json_lines(&line).unwrap();
            let name = SupportName::try_from("birds".to_owned()).unwrap();
            fixture.sets.add(&name, &set).await.unwrap().version
        };
        let first = add("owl").await;
        let claim =
            fixture.ledger.claim_job(&record.id, "w", 0, Duration::from_secs(60)).await.unwrap().unwrap();
        let page = fixture.page(&record, None).await.unwrap();
        fixture.ledger.add_items(&claim, &page.items, 0, 0).await.unwrap();
        assert_ne!(add("frog").await, first);
        let next = fixture.page(&record, Some(&page.cursor)).await.unwrap();
        let version = |page: &Page| Item::parse(&page.items[0].message).unwrap().few_shot.unwrap().support;
        assert_eq!((version(&page), version(&next)), (first.clone(), first));
        assert_eq!((page.items[0].id.as_str(), next.items[0].id.as_str()), ("a.mp4", "b.mp4"));
    }

    /// A worker that dies after the last page leaves its cursor: the next worker counts nothing twice.
    #[tokio::test]
    async fn each_file_is_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.mp4", ".b.mp4", "c/.d.mp4", "c/e.mp4", "f.txt", "g.mp4.part", "h.MP4"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let fixture = Fixture::new(2).await;
        let mut record = fixture.accept(folder.path(), serde_json::Value::Null).await;
        let mut names = Vec::new();
        loop {
            let page = fixture.page(&record, record.cursor.as_deref()).await.unwrap();
            names.extend(page.items.into_iter().map(|item| item.id.to_string()));
            record.cursor = Some(page.cursor);
            if page.is_last {
                break;
            }
        }
        assert_eq!(names, ["a.mp4".to_owned(), item_id("c/e.mp4").to_string(), "h.MP4".to_owned()]);
        let counted = serde_json::to_string(&skipped(&record)).unwrap();
        assert_eq!(counted, r#"{"hidden":2,"side_file":1,"not_matched":1}"#);
        let again = fixture.page(&record, record.cursor.as_deref()).await.unwrap();
        assert!(again.is_last && again.items.is_empty());
        record.cursor = Some(again.cursor);
        assert_eq!(serde_json::to_string(&skipped(&record)).unwrap(), counted);
        // The cursor of an older build was a key.
        let page = fixture.page(&record, Some("c/e.mp4")).await.unwrap();
        assert_eq!(page.items[0].id.as_str(), "a.mp4");
    }
}
