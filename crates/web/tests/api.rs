//! The router as a client sees it: exact bytes, exact statuses.

#[path = "api/fixture.rs"]
mod fixture;

#[path = "api/bad_input.rs"]
mod bad_input;

#[path = "api/good_answers.rs"]
mod good_answers;

#[path = "api/departure.rs"]
mod departure;

#[path = "api/operations.rs"]
mod operations;

#[path = "api/exemplars.rs"]
mod exemplars;

#[path = "api/table.rs"]
mod table;

#[path = "api/federate.rs"]
mod federate;

#[path = "api/read.rs"]
mod read;

#[path = "api/about.rs"]
mod about;

#[path = "api/query_log.rs"]
mod query_log;

#[path = "api/sight.rs"]
mod sight;

#[path = "api/completeness.rs"]
mod completeness;
