//! Dead letters: names, items, redelivery.

use jobs::failure::printable;
use jobs::ledger::LedgerError;
use jobs::queue::{DeadLetter, Lane, QueueError};
use jobs::state::ItemState;
use jobs::{ItemId, JobId};

use crate::api::sha256;
use crate::app::Backends;

/// Error of a redelivery: ledger or queue are unavailable.
#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Returns the message id, or a name from the hash of the body.
pub fn letter_name(letter: &DeadLetter) -> String {
    let message = &letter.delivery.message;
    match message.id.as_str() {
        "" => format!("body-{}", &sha256(&message.body)[..16]),
        id => printable(id),
    }
}

/// Returns the name of the lane.
pub fn lane_name(letter: &DeadLetter) -> &'static str {
    letter.lane.map_or("?", Lane::as_str)
}

/// Returns job and item of a letter from an item lane.
pub fn letter_item(letter: &DeadLetter) -> Option<(JobId, ItemId)> {
    if !matches!(letter.lane, Some(Lane::Items | Lane::Urgent)) {
        return None;
    }
    let (job, item) = letter.delivery.message.id.split_once('/')?;
    Some((JobId::try_from(job.to_owned()).ok()?, ItemId::try_from(item.to_owned()).ok()?))
}

/// Sends a letter to its original lane; returns the reason if that would be useless.
///
/// # Errors
/// Ledger or queue are unavailable; the letter stays dead.
pub fn redrive_letter<'b>(
    backends: &'b Backends,
    letter: &DeadLetter,
) -> impl Future<Output = Result<Option<String>, RedriveError>> + Send + use<'b> {
    // A letter is not `Sync`: copy the needed parts first.
    let (lane, item, message) = (letter.lane, letter_item(letter), letter.delivery.message.clone());
    async move {
        let Some(lane) = lane else {
            return Ok(Some("its original lane is unknown: submit the request again".into()));
        };
        if let Some((job, item)) = item
            && backends.ledger.item_state(&job, &item).await?.is_none_or(ItemState::is_end)
        {
            return Ok(Some(format!(
                "this video already has a report; `flamingo jobs retry {job}` repeats failed videos"
            )));
        }
        // The caller acknowledges afterwards: a duplicate is harmless, a loss is not.
        backends.queue.send(lane, &message).await?;
        Ok(None)
    }
}
