//! What the standard library might have had: a clock and a disk, each with its fake, numbers as bytes, one
//! copy of what many have, how many may be under way at once, and what the allocator gives back.
//!
//! Nothing here knows about metrics. A module earns its place with two users.

pub mod at_once;
pub mod bytes;
pub mod clock;
pub mod disk;
pub mod intern;
pub mod memory;
