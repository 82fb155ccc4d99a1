//! PromQL: text to tree ([`parser`]), tree to text ([`printer`]), tree and store to answer
//! ([`engine`]).
//!
//! No I/O and no clock: samples come through `storage::Queryable`, times as arguments.

pub mod answer;
pub mod ast;
pub mod engine;
pub mod function;
pub mod histogram;
mod lexer;
pub mod parser;
pub mod printer;
pub mod script;
pub mod series;
