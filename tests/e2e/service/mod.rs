//! End-to-end tests of the service on real servers: RabbitMQ, Postgres and S3. One file per promise.

mod broker;
mod worker_process;
mod world;

pub use world::wait;

mod admission;
mod batch;
mod cache;
mod changes;
mod clocks;
mod crashes;
mod deployed;
mod embedded;
mod few_shot;
mod foreign_objects;
mod idempotency;
mod lost_reports;
mod messages;
mod outages;
mod pages;
mod poison;
mod routes;
mod secrets;
mod shutdown;
mod slow_store;
mod soak;
mod store_limits;
mod tracing;
