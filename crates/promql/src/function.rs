//! The functions by name: argument and result types. What they compute is in the evaluator.
//!
//! Source: Prometheus `promql/parser/functions.go`.

use crate::ast::ValueType;
use crate::ast::ValueType::{Matrix as M, Scalar as S, String as T, Vector as V};

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

impl Signature {
    /// The type of argument `at` (from 0); the last type stands for all that repeat.
    pub fn arg_type(&self, at: usize) -> Option<ValueType> {
        match self.args.get(at) {
            Some(found) => Some(*found),
            None if self.variadic == 0 => None,
            None => self.args.last().copied(),
        }
    }
}

/// Finds a function by its exact name.
pub fn lookup(name: &str) -> Option<&'static Signature> {
    FUNCTIONS.binary_search_by(|f| f.name.cmp(name)).ok().map(|at| &FUNCTIONS[at])
}

const fn stable(
    name: &'static str,
    args: &'static [ValueType],
    variadic: i8,
    returns: ValueType,
) -> Signature {
    Signature { name, args, variadic, returns, experimental: false }
}

const fn experimental(
    name: &'static str,
    args: &'static [ValueType],
    variadic: i8,
    returns: ValueType,
) -> Signature {
    Signature { name, args, variadic, returns, experimental: true }
}

/// All functions, sorted by name.
#[rustfmt::skip]
pub static FUNCTIONS: &[Signature] = &[
    stable("abs", &[V], 0, V),
    stable("absent", &[V], 0, V),
    stable("absent_over_time", &[M], 0, V),
    stable("acos", &[V], 0, V),
    stable("acosh", &[V], 0, V),
    stable("asin", &[V], 0, V),
    stable("asinh", &[V], 0, V),
    stable("atan", &[V], 0, V),
    stable("atanh", &[V], 0, V),
    stable("avg_over_time", &[M], 0, V),
    stable("ceil", &[V], 0, V),
    stable("changes", &[M], 0, V),
    stable("clamp", &[V, S, S], 0, V),
    stable("clamp_max", &[V, S], 0, V),
    stable("clamp_min", &[V, S], 0, V),
    stable("cos", &[V], 0, V),
    stable("cosh", &[V], 0, V),
    stable("count_over_time", &[M], 0, V),
    stable("day_of_month", &[V], 1, V),
    stable("day_of_week", &[V], 1, V),
    stable("day_of_year", &[V], 1, V),
    stable("days_in_month", &[V], 1, V),
    stable("deg", &[V], 0, V),
    stable("delta", &[M], 0, V),
    stable("deriv", &[M], 0, V),
    experimental("double_exponential_smoothing", &[M, S, S], 0, V),
    experimental("end", &[], 0, S),
    stable("exp", &[V], 0, V),
    stable("first_over_time", &[M], 0, V),
    stable("floor", &[V], 0, V),
    stable("histogram_avg", &[V], 0, V),
    stable("histogram_count", &[V], 0, V),
    stable("histogram_fraction", &[S, S, V], 0, V),
    stable("histogram_quantile", &[S, V], 0, V),
    experimental("histogram_quantiles", &[V, T, S, S], 9, V),
    stable("histogram_stddev", &[V], 0, V),
    stable("histogram_stdvar", &[V], 0, V),
    stable("histogram_sum", &[V], 0, V),
    stable("hour", &[V], 1, V),
    stable("idelta", &[M], 0, V),
    stable("increase", &[M], 0, V),
    experimental("info", &[V, V], 1, V),
    stable("irate", &[M], 0, V),
    stable("label_join", &[V, T, T, T], -1, V),
    stable("label_replace", &[V, T, T, T, T], 0, V),
    stable("last_over_time", &[M], 0, V),
    stable("ln", &[V], 0, V),
    stable("log10", &[V], 0, V),
    stable("log2", &[V], 0, V),
    experimental("mad_over_time", &[M], 0, V),
    experimental("max_of", &[S, S], 0, S),
    stable("max_over_time", &[M], 0, V),
    experimental("min_of", &[S, S], 0, S),
    stable("min_over_time", &[M], 0, V),
    stable("minute", &[V], 1, V),
    stable("month", &[V], 1, V),
    stable("pi", &[], 0, S),
    stable("predict_linear", &[M, S], 0, V),
    stable("present_over_time", &[M], 0, V),
    stable("quantile_over_time", &[S, M], 0, V),
    stable("rad", &[V], 0, V),
    experimental("range", &[], 0, S),
    stable("rate", &[M], 0, V),
    stable("resets", &[M], 0, V),
    stable("round", &[V, S], 1, V),
    stable("scalar", &[V], 0, S),
    stable("sgn", &[V], 0, V),
    stable("sin", &[V], 0, V),
    stable("sinh", &[V], 0, V),
    stable("sort", &[V], 0, V),
    experimental("sort_by_label", &[V, T], -1, V),
    experimental("sort_by_label_desc", &[V, T], -1, V),
    stable("sort_desc", &[V], 0, V),
    stable("sqrt", &[V], 0, V),
    experimental("start", &[], 0, S),
    experimental("start_timestamp", &[V], 0, V),
    stable("stddev_over_time", &[M], 0, V),
    stable("stdvar_over_time", &[M], 0, V),
    experimental("step", &[], 0, S),
    stable("sum_over_time", &[M], 0, V),
    stable("tan", &[V], 0, V),
    stable("tanh", &[V], 0, V),
    stable("time", &[], 0, S),
    stable("timestamp", &[V], 0, V),
    experimental("ts_of_first_over_time", &[M], 0, V),
    experimental("ts_of_last_over_time", &[M], 0, V),
    experimental("ts_of_max_over_time", &[M], 0, V),
    experimental("ts_of_min_over_time", &[M], 0, V),
    stable("vector", &[S], 0, V),
    stable("year", &[V], 1, V),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_so_that_every_function_is_found() {
        assert!(FUNCTIONS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for function in FUNCTIONS {
            assert_eq!(lookup(function.name), Some(function));
        }
        assert_eq!(lookup("Rate"), None);
        assert_eq!(lookup("holt_winters"), None);
    }

    #[test]
    fn stable_and_experimental_functions_are_as_many_as_upstream() {
        assert_eq!(FUNCTIONS.iter().filter(|f| !f.experimental).count(), 73);
        assert_eq!(FUNCTIONS.iter().filter(|f| f.experimental).count(), 17);
    }

    #[test]
    fn repeating_arguments_take_the_last_type() {
        let join = lookup("label_join").expect("label_join");
        assert_eq!(join.arg_type(7), Some(T));
        assert_eq!(lookup("rate").expect("rate").arg_type(1), None);
    }
}
