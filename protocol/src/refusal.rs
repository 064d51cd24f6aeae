//! Why somebody says no: a worker to a question or to an offered task, so that programs and people can act on it.
//!
//! Invariant: a refusal is the word of one worker. It decides where to ask next, never who is paid.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::id::{Amount, TaskId};
use crate::limits::NAME_MAX_BYTES;

/// What kind of refusal of a question it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// Another worker may answer, or this one later.
    Transient,
    /// The price is above the payer's limit.
    Price,
    /// The prompt does not fit the model's context.
    TooLong,
    /// The payer has not covered what it owes.
    Funds,
    /// The question itself is wrong.
    Invalid,
}

impl RefusalKind {
    /// The number on the answer stream.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Transient => 0,
            Self::Price => 1,
            Self::TooLong => 2,
            Self::Funds => 3,
            Self::Invalid => 4,
        }
    }

    /// The kind of a number on the answer stream; one that is unknown here is worth another try.
    #[must_use]
    pub const fn of_code(code: u8) -> Self {
        match code {
            1 => Self::Price,
            2 => Self::TooLong,
            3 => Self::Funds,
            4 => Self::Invalid,
            _ => Self::Transient,
        }
    }

    /// Whether the same worker would say the same again.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Transient)
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of reason.
    pub kind: RefusalKind,
    /// For people.
    pub reason: String,
}

impl Refusal {
    /// A refusal of `kind`.
    pub fn new(kind: RefusalKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }
}

impl<T: Into<String>> From<T> for Refusal {
    /// What nobody called final is transient.
    fn from(reason: T) -> Self {
        Self::new(RefusalKind::Transient, reason)
    }
}

/// Why a worker does not bid on a task, or gives it back.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DeclineReason {
    /// The budget is below what it asks.
    BudgetTooLow {
        /// What the requester would pay in all, fees included.
        asks: Amount,
    },
    /// It works on something else.
    Busy,
    /// It does not have the datanet.
    DatanetUnknown,
    /// It tried and could not do it: the base, the recipe or the size is beyond it.
    Unable {
        /// What it says.
        says: String,
    },
}

impl DeclineReason {
    /// Whether its text is within bounds.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        !matches!(self, Self::Unable { says } if says.len() > NAME_MAX_BYTES)
    }

    /// "Unable", with as much of `says` as fits.
    #[must_use]
    pub fn unable(says: &str) -> Self {
        let mut end = says.len().min(NAME_MAX_BYTES);
        while !says.is_char_boundary(end) {
            end -= 1;
        }
        Self::Unable { says: says[..end].to_owned() }
    }
}

/// A worker heard an offer and does not bid, or gives the task back; the envelope has its node's signature.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Declined {
    /// The task.
    pub task: TaskId,
    /// Why.
    pub reason: DeclineReason,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_the_stream_and_unknown_ones_are_worth_a_try() {
        use RefusalKind::{Funds, Invalid, Price, TooLong, Transient};
        for kind in [Transient, Price, TooLong, Funds, Invalid] {
            assert_eq!(RefusalKind::of_code(kind.code()), kind);
        }
        assert!(!RefusalKind::of_code(200).is_final());
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let reason = DeclineReason::unable(&"ä".repeat(NAME_MAX_BYTES));
        assert!(reason.is_well_formed());
        assert_eq!(reason, DeclineReason::Unable { says: "ä".repeat(NAME_MAX_BYTES / 2) });
    }
}
