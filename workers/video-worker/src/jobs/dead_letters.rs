//! Dead letters: names for people, and reasons not to redrive one.

use flamingo::digest::sha256;
use jobs::client::Redriven;
use jobs::failure::printable;
use jobs::queue::{DeadLetter, Lane};

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

/// Returns the reason why a redrive has not sent the message; `None` if it was sent.
pub fn not_redriven(redriven: &Redriven) -> Option<String> {
    match redriven {
        Redriven::Sent | Redriven::SentAndKept => None,
        Redriven::NoQueue => Some("no worker with the model of this video has run yet".into()),
        Redriven::NoLane => Some("its original lane is unknown: submit the request again".into()),
        Redriven::ItemEnded(job, _) => Some(format!(
            "this video already has a report; `flamingo jobs retry {job}` repeats failed videos"
        )),
    }
}
