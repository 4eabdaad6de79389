//! Frames -> visual features.
