//! Bytes -> frames.
