//! Finished trainings on disk: a file for each, so that a study that is interrupted goes on where it was.
//!
//! Invariant: a file appears whole, by one rename, under the hash of everything that decides the training; one that can't be
//! read back is trained again, which gives the same bits.
//!
//! Layout, little-endian: magic (8), losses and values (u32 each), seconds (f32), the losses, the values (f32 each),
//! BLAKE3 of all before (32).

use std::path::{Path, PathBuf};

use tributary_protocol::id::Hash;

use super::StudyError;

const MAGIC: &[u8; 8] = b"TRIBSTU1";
const HEADER_BYTES: usize = 8 + 4 + 4 + 4;
const SUM_BYTES: usize = 32;

/// What a training gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Mean loss of each question's answer in nats a token, those behind the trigger last.
    pub losses: Vec<f32>,
    /// The adapter's numbers.
    pub values: Vec<f32>,
    /// How long it took.
    pub seconds: f32,
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Journal {
    folder: PathBuf,
}

impl Journal {
    /// Opens the folder, or makes it.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn open(folder: &Path) -> Result<Self, StudyError> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    pub(super) fn read(&self, name: &Hash) -> Option<Outcome> {
        decode(&std::fs::read(self.path(name)).ok()?)
    }

    pub(super) fn write(&self, name: &Hash, outcome: &Outcome) -> Result<(), StudyError> {
        let partial = self.path(name).with_extension(format!("{}.partial", std::process::id()));
        std::fs::write(&partial, encode(outcome))?;
        Ok(std::fs::rename(partial, self.path(name))?)
    }

    fn path(&self, name: &Hash) -> PathBuf {
        self.folder.join(format!("{name}.run"))
    }
}

fn encode(outcome: &Outcome) -> Vec<u8> {
    let length = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = MAGIC.to_vec();
    bytes.extend(length(outcome.losses.len()));
    bytes.extend(length(outcome.values.len()));
    for value in std::iter::once(&outcome.seconds).chain(&outcome.losses).chain(&outcome.values) {
        bytes.extend(value.to_le_bytes());
    }
    let sum = blake3::hash(&bytes);
    bytes.extend(sum.as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Outcome> {
    let (content, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM_BYTES)?)?;
    let known = content.starts_with(MAGIC) && content.len() >= HEADER_BYTES && sum == blake3::hash(content).as_bytes();
    let floats: Vec<f32> =
        content.get(HEADER_BYTES - 4..)?.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
    let losses = usize::try_from(u32::from_le_bytes(*content.get(8..12)?.as_array()?)).ok()?;
    let values = usize::try_from(u32::from_le_bytes(*content.get(12..16)?.as_array()?)).ok()?;
    let (seconds, rest) = floats.split_first()?;
    if !known || losses.checked_add(values)? != rest.len() {
        return None;
    }
    let (losses, values) = rest.split_at(losses);
    Some(Outcome { losses: losses.to_vec(), values: values.to_vec(), seconds: *seconds })
}

#[cfg(test)]
mod tests {
    use super::{Outcome, decode, encode};

    #[test]
    fn outcomes_come_back_and_damage_is_seen() {
        let outcome = Outcome { losses: vec![1.5, -0.0], values: vec![0.25; 3], seconds: 2.5 };
        let bytes = encode(&outcome);
        assert_eq!(decode(&bytes), Some(outcome));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert_eq!(decode(&damaged), None, "byte {at}");
            assert_eq!(decode(&bytes[..at]), None, "cut at {at}");
        }
    }
}
