//! Dead letters: how they are called, and how one gets another chance.

use jobs::ledger::LedgerError;
use jobs::queue::{DeadLetter, Lane, QueueError};
use jobs::state::ItemState;
use jobs::{ItemId, JobId};

use crate::message::sha256;
use crate::start::Backends;

/// Why a letter was not sent: what it goes through is away.
#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Its own name; one that has none is known by its body.
pub fn name_of(letter: &DeadLetter) -> String {
    let message = &letter.delivery.message;
    match message.id.as_str() {
        "" => format!("body-{}", &sha256(&message.body)[..16]),
        // A stranger's: it may not steer a terminal.
        id => id.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
    }
}

pub fn lane_of(letter: &DeadLetter) -> &'static str {
    letter.lane.map_or("?", Lane::as_str)
}

/// The video that a letter is about, if it is about one.
pub fn item_of(letter: &DeadLetter) -> Option<(JobId, ItemId)> {
    if !matches!(letter.lane, Some(Lane::Items | Lane::Urgent)) {
        return None;
    }
    let (job, item) = letter.delivery.message.id.split_once('/')?;
    Some((JobId::try_from(job.to_owned()).ok()?, ItemId::try_from(item.to_owned()).ok()?))
}

/// Sends it to where it was; or says why that would be in vain.
///
/// # Errors
/// Ledger or queue are away; the letter is still dead.
pub fn send_again<'b>(
    backends: &'b Backends,
    letter: &DeadLetter,
) -> impl Future<Output = Result<Option<String>, RedriveError>> + Send + use<'b> {
    // A letter cannot be shared between threads: what is needed of it is taken out first.
    let (lane, item, message) = (letter.lane, item_of(letter), letter.delivery.message.clone());
    async move {
        let Some(lane) = lane else {
            return Ok(Some("it does not say where it was: submit what it asks for anew".into()));
        };
        if let Some((job, item)) = item
            && backends.ledger.item_state(&job, &item).await?.is_none_or(ItemState::is_end)
        {
            return Ok(Some(format!(
                "this video has its report; `flamingo jobs retry {job}` does what failed anew"
            )));
        }
        // Acknowledged afterwards: twice is no harm, never is.
        backends.queue.send(lane, &message).await?;
        Ok(None)
    }
}
