//! Rows on their way from an agent to hubs and other receivers.

pub mod block;
pub mod encoder;
pub mod intake;
pub mod ship;
pub mod write_out;

pub use encoder::{Encoder, EncoderConfig, EncoderMetrics, Prompt};
pub use intake::{IntakeConfig, IntakeMetrics, NeverComing, OnLost, Reason, StoreIntake};
