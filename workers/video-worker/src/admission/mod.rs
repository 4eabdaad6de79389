//! Admission of videos: byte budgets and the memory estimate.

mod budget;
mod estimate;

pub use budget::{Budget, NoRoom, Reservation};
pub use estimate::{estimate, frames_at_once};
