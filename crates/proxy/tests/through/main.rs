//! The proxy from outside: over a socket where bytes matter, by direct calls where time does.

mod access;
mod discovery;
mod fixture;
mod prometheus;
mod pushprox;
mod speed;
mod tunnel;
