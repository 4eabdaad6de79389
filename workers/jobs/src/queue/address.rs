//! Addresses of queues: lanes and routes.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Lane of messages. Each lane is a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Messages about jobs.
    Jobs,
    /// Messages about items, one each.
    Items,
    /// Messages about urgent items. They have worker slots of their own, so that they never wait behind a batch.
    Urgent,
}

impl Lane {
    pub const ALL: [Lane; 3] = [Lane::Jobs, Lane::Items, Lane::Urgent];

    /// Returns the lane's name, which is also its routing key.
    pub fn as_str(self) -> &'static str {
        match self {
            Lane::Jobs => "jobs",
            Lane::Items => "items",
            Lane::Urgent => "urgent",
        }
    }
}

/// Name of what an item needs and only some workers have, such as a model. The job machinery only compares routes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route(String);

impl Route {
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the route in names of queues: 16 hexadecimal digits of its hash, because a name may have any length and
    /// character.
    fn digits(&self) -> String {
        Sha256::digest(&self.0)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Address of a queue: a lane, for all workers or for those with a route. Job messages have no route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    pub lane: Lane,
    pub route: Option<Route>,
}

impl Address {
    /// Returns the queues of a route: one for each lane of items.
    pub(super) fn of_route(route: &Route) -> [Address; 2] {
        [Lane::Items, Lane::Urgent].map(|lane| Address { lane, route: Some(route.clone()) })
    }

    /// Returns the routing key: `items`, or `items.` and 16 digits for a route.
    pub fn key(&self) -> String {
        match &self.route {
            None => self.lane.as_str().to_owned(),
            Some(route) => format!("{}.{}", self.lane.as_str(), route.digits()),
        }
    }

    /// Returns the lane of a routing key.
    pub(super) fn lane_of(key: &str) -> Option<Lane> {
        let name = key.split('.').next()?;
        Lane::ALL.into_iter().find(|lane| lane.as_str() == name)
    }
}

impl From<Lane> for Address {
    /// Returns the queue of all workers.
    fn from(lane: Lane) -> Self {
        Self { lane, route: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_lane_and_hashed_route() {
        let routed = |name: &str| Address { lane: Lane::Urgent, route: Some(Route::new(name)) };
        assert_eq!(Address::from(Lane::Items).key(), "items");
        // printf %s flamingo-mini | sha256sum | head -c 16
        assert_eq!(routed("flamingo-mini").key(), "urgent.be02b445627ff16e");
        assert_ne!(routed("a").key(), routed("b").key());
        let key = routed(&"*# ".repeat(200)).key();
        assert!(key.len() == 23 && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.'), "{key}");
        assert_eq!(Address::lane_of(&key), Some(Lane::Urgent));
        assert_eq!(Address::lane_of("urgently"), None);
    }
}
