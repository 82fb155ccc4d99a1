//! Nesting, and the stack it takes.
//!
//! Long texts are long lists here: operators and signs in a row are flat in the tree
//! ([`crate::ast::Chain`], [`crate::ast::Unary`]), and so are arguments. What is left to recurse is
//! what somebody nested: parentheses, calls, subqueries. Every function that does goes through
//! [`deeper`], so that [`LEVELS_MAX`] levels are read, checked, printed, planned and evaluated on the
//! stack of any thread.

/// How many levels a tree may have: parentheses, calls, signs, chains of operators of another strength.
/// `(a + (b + c))` has five.
pub const LEVELS_MAX: usize = 2000;

/// With less stack than this left, more is taken from the heap: several times what lies between two
/// calls of [`deeper`] without optimisation.
const RESERVE_BYTES: usize = 128 << 10;
/// How much more.
const SEGMENT_BYTES: usize = 2 << 20;

/// Runs what goes a level down, on more stack where that is needed.
#[inline]
pub fn deeper<T>(run: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(RESERVE_BYTES, SEGMENT_BYTES, run)
}
