//! Training.

mod dropout;

pub use dropout::Dropout;
