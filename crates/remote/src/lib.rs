//! Rows on their way from an agent to hubs and other receivers.

pub mod block;
