//! Bytes to model and back: exposition as text, OpenMetrics and protobuf, remote write and read, federation.
//!
//! No I/O and no clock: bytes and times come in as arguments. Everything here reads what strangers
//! send, so nothing panics on it, and every size is checked before memory is taken.

pub mod exposition;
pub mod federation;
mod proto;
pub mod remote_read;
pub mod remote_write;
