//! The video worker: a service that runs jobs about videos.
//!
//! A job message is parsed ([`api`]). Its inputs are listed and downloaded ([`inputs`]) within budgets ([`admission`]). Each
//! video is analysed, or answered from the cache of visual tokens ([`cache`]), after examples of a support set ([`support`]); [`jobs`] runs items, writes results and decides
//! which errors are retried. [`settings`] configure the worker, [`app`] composes it, [`http`] serves its state.

pub mod inputs;
pub mod api;
pub mod admission;
pub mod cache;
pub mod support;
pub mod jobs;
pub mod settings;
pub mod app;
pub mod http;
