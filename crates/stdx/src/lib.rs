//! What the standard library might have had, each with its fake: a clock and a disk.
//!
//! Nothing here knows about metrics. A module earns its place with two users.

pub mod clock;
pub mod disk;
