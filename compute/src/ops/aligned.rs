//! Numbers that begin at a cache line.
//!
//! Invariant: a vector of the widest instructions at a multiple of its own length lies in one cache line; across two it
//! takes twice as long to read.

use std::ops::{Deref, DerefMut, Range};

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// A list of numbers.
#[derive(Debug, Default)]
pub(super) struct Aligned {
    numbers: Vec<f32>,
    own: Range<usize>,
}

impl Aligned {
    /// So many zeros.
    pub(super) fn zeros(length: usize) -> Self {
        let mut zeros = Self::default();
        zeros.take(length);
        zeros
    }

    /// So many numbers of any value, in place of those before.
    pub(super) fn take(&mut self, length: usize) -> &mut [f32] {
        let most = length + LINE_BYTES / size_of::<f32>();
        if self.numbers.len() < most {
            self.numbers = vec![0.0; most];
        }
        let start = self.numbers.as_ptr().align_offset(LINE_BYTES);
        self.own = start..start + length;
        self
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.numbers[self.own.clone()]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.numbers[self.own.clone()]
    }
}
