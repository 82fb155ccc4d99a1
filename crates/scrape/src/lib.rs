//! Scrape pools and loops: from target groups to rows.

pub mod client;
pub mod config;
