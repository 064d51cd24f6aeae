//! Metadata values.
//!
//! Invariant: arrays are flat and of one type, as every real file has them.

/// A metadata value; numbers of all widths are widened.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// u8 to u64.
    Unsigned(u64),
    /// i8 to i64.
    Signed(i64),
    /// f32 and f64.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// UTF-8.
    Text(String),
    /// Several of one type.
    Array(Values),
}

/// The elements of an array.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Whole numbers of any width; those beyond i64 are refused.
    Whole(Vec<i64>),
    /// Floating-point numbers.
    Float(Vec<f64>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Texts.
    Text(Vec<String>),
}

impl Value {
    /// A whole number of at least zero, whatever its width.
    #[must_use]
    pub fn unsigned(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(*value),
            Self::Signed(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// A number as f64.
    #[must_use]
    pub fn float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            other => other.unsigned().map(|value| value as f64),
        }
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value.
    #[must_use]
    pub const fn truth(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The texts of an array.
    #[must_use]
    pub fn texts(&self) -> Option<&[String]> {
        match self {
            Self::Array(Values::Text(texts)) => Some(texts),
            _ => None,
        }
    }

    /// The whole numbers of an array.
    #[must_use]
    pub fn wholes(&self) -> Option<&[i64]> {
        match self {
            Self::Array(Values::Whole(values)) => Some(values),
            _ => None,
        }
    }

    /// The floating-point numbers of an array.
    #[must_use]
    pub fn floats(&self) -> Option<&[f64]> {
        match self {
            Self::Array(Values::Float(values)) => Some(values),
            _ => None,
        }
    }
}
