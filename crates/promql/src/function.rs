//! The functions by name: argument and result types. What they compute is in the evaluator.
//!
//! Source: Prometheus `promql/parser/functions.go`.

use crate::ast::ValueType;

/// What a call of a function looks like.
#[derive(Debug, PartialEq)]
pub struct Signature {
    /// The name.
    pub name: &'static str,
    /// Argument types; the last one may repeat.
    pub args: &'static [ValueType],
    /// How many arguments may be left out or repeat: 0 takes exactly `args`; n > 0 makes the last
    /// `args` argument optional and allows up to n of it; -1 allows any number of it, also none.
    pub variadic: i8,
    /// Result type.
    pub returns: ValueType,
    /// Needs a switch in Prometheus (`promql-experimental-functions` and its kin).
    pub experimental: bool,
}

/// Finds a function.
pub fn lookup(name: &str) -> Option<&'static Signature> {
    FUNCTIONS.iter().find(|f| f.name == name)
}

/// All functions, sorted by name.
pub static FUNCTIONS: &[Signature] = &[];
