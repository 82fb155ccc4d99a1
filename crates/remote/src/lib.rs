//! Rows on their way from an agent to hubs and other receivers.

pub mod block;
pub mod encoder;

pub use encoder::{Encoder, EncoderConfig, EncoderMetrics, Prompt};
pub mod write_out;
