//! Why a command failed: what, why, what to do, and the exit code.
//!
//! Invariant: 0 ok, 1 failed, 2 usage, 3 node down, 4 unreachable, 5 funds, 6 verification failed, 7 keys locked,
//! 8 cannot be judged here.

use crate::client::ClientError;
use crate::demo::DemoError;

/// Something went wrong here.
pub(super) const FAILED: u8 = 1;
/// What was given is wrong.
pub(super) const USAGE: u8 = 2;
/// Something outside this node does not answer.
pub(super) const UNREACHABLE: u8 = 4;
/// Not enough money.
pub(super) const FUNDS: u8 = 5;
/// Something does not hold.
pub(super) const VERIFICATION: u8 = 6;

/// The keys do not open with the passphrase or key file that is given.
pub(super) const LOCKED: u8 = 7;

/// It cannot be said here whether something holds.
pub(super) const UNJUDGED: u8 = 8;

/// Ended by a signal, as shells say it.
const INTERRUPTED: u8 = 130;

/// Why a command failed, with its exit code and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: u8,
    pub(super) message: String,
    pub(super) hint: String,
}

impl Failure {
    pub(super) fn new(code: u8, message: impl ToString, hint: &str) -> Self {
        Self { code, message: message.to_string(), hint: hint.to_owned() }
    }

    pub(super) fn usage(message: impl ToString, hint: &str) -> Self {
        Self::new(USAGE, message, hint)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self { code: error.exit_code(), hint: error.hint(), message: error.to_string() }
    }
}

impl From<DemoError> for Failure {
    fn from(error: DemoError) -> Self {
        match &error {
            DemoError::Usage(_) => Self::usage(error, "see tributary demo --help"),
            DemoError::Stopped(_) => Self::new(INTERRUPTED, error, "run it again when you like"),
            DemoError::Step { .. } => {
                Self::new(UNREACHABLE, error, "the nodes' logs are in the demo's folder, node.log each")
            }
            DemoError::Check(_) => {
                Self::new(VERIFICATION, error, "this should not happen; keep the demo's folder for a report")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_of_the_node_has_its_exit_code() {
        let code = |code: &str| {
            let (message, hint) = (String::new(), String::new());
            Failure::from(ClientError::Refused { code: code.into(), message, hint }).code
        };
        assert_eq!([code("usage"), code("not_found")], [USAGE, USAGE]);
        assert_eq!([code("unreachable"), code("funds"), code("verification")], [UNREACHABLE, FUNDS, VERIFICATION]);
        assert_eq!([code("busy"), code("internal"), code("something new")], [FAILED; 3]);
    }

    #[test]
    fn a_node_that_is_down_says_how_to_start_it() {
        let failure = Failure::from(ClientError::NodeDown { folder: "here".into() });
        assert_eq!(failure.code, 3);
        assert!(failure.hint.contains("tributary up"), "{}", failure.hint);
    }
}
