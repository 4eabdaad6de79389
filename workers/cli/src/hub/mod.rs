//! Models by name: the catalogue, the cache of their files on this machine, and downloads from the model hub.

#[cfg(feature = "hub")]
pub mod assemble;
pub mod cache;
pub mod catalogue;
#[cfg(feature = "hub")]
pub mod choice;
#[cfg(feature = "hub")]
pub mod client;
#[cfg(feature = "hub")]
pub mod download;
#[cfg(feature = "hub")]
pub mod hash;
#[cfg(feature = "hub")]
pub mod listing;
pub mod name;
#[cfg(feature = "hub")]
pub mod pull;
