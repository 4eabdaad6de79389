//! Expansion of the inputs of a job into items.

use std::collections::{HashMap, HashSet};

use flamingo::digest::sha256;
use inference::analysis::AnalysisSpec;
use jobs::job::NewItem;
use jobs::ledger::{JobRecord, Ledger};
use jobs::queue::{Address, Route};
use jobs::worker::Page;
use jobs::{Failure, ItemId, JobId, Stopped};

use super::ServiceLimits;
use super::retry_policy::listing_stopped;
use crate::api::{Input, Item, JobMessage, ManifestLine, json as to_json, lane, matcher};
use crate::inputs::{Inputs, ListedObject, Location};

/// Items per page of an input list that is read whole for each page.
const LIST_PAGE: usize = 10_000;

/// Lists the inputs of jobs.
pub struct Listing<'a> {
    pub inputs: &'a Inputs,
    pub ledger: &'a Ledger,
    pub limits: &'a ServiceLimits,
}

impl Listing<'_> {
    /// Returns a page of items from `cursor` on.
    ///
    /// # Errors
    /// The inputs cannot be listed.
    pub async fn page(&self, record: &JobRecord, cursor: Option<&str>) -> Result<Page, Stopped> {
        let job = JobMessage::from_ledger(&record.message).map_err(Stopped::fail)?;
        match &job.input {
            Input::Video(url) => self.list(&job, record, std::slice::from_ref(url), cursor),
            Input::Videos(urls) => self.list(&job, record, urls, cursor),
            Input::Prefix { url, glob } => self.prefix(&job, record, url, glob, cursor).await,
            Input::Manifest(url) => self.manifest(&job, record, url, cursor).await,
            Input::UnfinishedOf(earlier) => self.unfinished(&job, record, earlier, cursor).await,
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
        Ok(Page { items, next })
    }

    fn list(
        &self,
        job: &JobMessage,
        record: &JobRecord,
        urls: &[String],
        cursor: Option<&str>,
    ) -> Result<Page, Stopped> {
        for url in urls {
            self.inputs.locate(url).map_err(|e| listing_stopped(&e))?;
        }
        let items = urls.iter().map(|url| job.item(&record.id, item_id(&file_name(url)), url.clone()));
        Ok(slice(distinct(items.collect()), cursor))
    }

    async fn prefix(
        &self,
        job: &JobMessage,
        record: &JobRecord,
        url: &str,
        glob: &str,
        cursor: Option<&str>,
    ) -> Result<Page, Stopped> {
        let prefix = self.inputs.locate(url).map_err(|e| listing_stopped(&e))?;
        let matcher = matcher(glob).map_err(Stopped::fail)?;
        let (found, next) =
            self.inputs.page(&prefix, cursor, self.limits.page).await.map_err(|e| listing_stopped(&e))?;
        let matching = found.into_iter().filter(|found| matcher.is_match(&found.name));
        let items = matching.map(|ListedObject { name, location, etag }| {
            let item = job.item(&record.id, item_id(&name), location.to_string());
            new_item(&Item { etag, ..item })
        });
        Ok(Page { items: items.collect(), next })
    }

    /// Lists a manifest. All of it is validated before the first item exists.
    async fn manifest(
        &self,
        job: &JobMessage,
        record: &JobRecord,
        url: &str,
        cursor: Option<&str>,
    ) -> Result<Page, Stopped> {
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
        let lines = manifest_items(self.inputs, job, &record.id, &location, &bytes)?;
        let Page { items, next } = slice(lines, place);
        Ok(Page { items, next: next.map(|place| format!("{place} {version}")) })
    }
}

/// Parses a manifest into items; fails as a whole if any line is invalid.
///
/// # Errors
/// The first invalid line.
pub fn manifest_items(
    inputs: &Inputs,
    job: &JobMessage,
    id: &JobId,
    location: &Location,
    bytes: &[u8],
) -> Result<Vec<Item>, Stopped> {
    let mut ids = HashSet::new();
    let mut items = Vec::new();
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
        let tasks = line.tasks().map_err(|e| bad(e.to_string()))?.unwrap_or_else(|| job.spec.tasks.clone());
        let item = job.item(id, name, line.video);
        let spec = AnalysisSpec { tasks, ..item.spec };
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
    Page { items: items.iter().skip(start).take(LIST_PAGE).map(new_item).collect(), next }
}
