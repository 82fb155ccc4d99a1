//! Fakes of the outside, and the real outside where it can be had: targets, an HTTP client, the
//! peers from Debian's packages. Only tests know this crate.

pub mod http;
pub mod net;
pub mod peers;
pub mod push;
pub mod recorded;
pub mod relay;
pub mod target;
pub mod token;
