//! PromQL: text to tree ([`parser`]), tree to text ([`printer`]), tree and store to answer
//! ([`engine`]).
//!
//! No I/O and no clock but the stopwatch of a query's timeout: samples come through
//! `storage::Queryable`, times as arguments.

mod annotations;
pub mod answer;
pub mod ast;
pub mod depth;
pub mod engine;
mod eval;
pub mod function;
mod functions;
pub mod histogram;
mod lexer;
pub mod parser;
pub mod printer;
pub mod script;
pub mod series;
