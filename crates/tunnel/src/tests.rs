//! Agent and hub over real TCP and over a simulated network, with TLS and certificates made for the test.

mod behaviour;
mod hostile;
pub(crate) mod kit;
mod simulation;
