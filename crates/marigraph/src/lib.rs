//! The program: the command line, the configuration file, and the wiring of the roles.
//!
//! A role is a function that reads from first stage to last; tests run it whole, in-process, on
//! port 0.

pub mod agent;
pub mod cli;
pub mod config;
mod credentials;
mod doors;
mod explain;
mod front;
pub mod hub;
mod limits;
pub mod logging;
mod owner;
mod program;
mod pull;
mod remote_writes;
mod replies;
mod store;
pub mod verbs;

/// An error and its causes on one line. Some errors of ours name their cause already; nothing is said
/// twice.
pub fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn causes_are_told_once() {
        let cause = anyhow::anyhow!("not a directory");
        assert_eq!(super::told(&cause.context("list /x")), "list /x: not a directory");
        let named = anyhow::anyhow!("not a directory").context("list /x: not a directory");
        assert_eq!(super::told(&named), "list /x: not a directory");
    }
}
