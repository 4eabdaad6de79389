//! The service from the outside, on real servers: RabbitMQ, Postgres and S3. One file per promise.

mod broker;
mod world;

mod batch;
mod changes;
mod crashes;
mod deployed;
mod embedded;
mod idempotency;
mod messages;
mod outages;
mod pages;
mod poison;
mod recall;
mod room;
mod secrets;
mod shutdown;
mod slow_store;
mod soak;
mod tracing;
