//! Flags, logging, signals; everything else is in the library, so that tests can run it whole.

fn main() {}
