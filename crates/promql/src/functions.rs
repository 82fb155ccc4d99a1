//! What the functions compute, by family.

pub(crate) mod classic;
pub(crate) mod datetime;
pub(crate) mod kahan;
pub(crate) mod math;
pub(crate) mod mixed;
pub(crate) mod natural;
pub(crate) mod over_time;
pub(crate) mod rate;
