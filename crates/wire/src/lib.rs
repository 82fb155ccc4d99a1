//! Bytes to model and back: text exposition, OpenMetrics, remote write.
//!
//! No I/O and no clock: bytes and times come in as arguments. Everything here reads what strangers
//! send, so nothing panics on it, and every size is checked before memory is taken.

pub mod exposition;
pub mod remote_write;
