//! The program: the command line, the configuration file, and the wiring of the roles.
//!
//! A role is a function that reads from first stage to last; tests run it whole, in-process, on
//! port 0.

pub mod backup;
pub mod check;
pub mod cli;
pub mod client;
pub mod config;
pub mod hub;
pub mod logging;
pub mod progress;
pub mod query;
pub mod tsdb_verbs;
