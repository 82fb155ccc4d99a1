//! The account of what was due and what is stored, for each source.
