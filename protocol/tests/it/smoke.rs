//! The fuzz targets' body in a bounded run: every kind, some thousand changed examples, the same each time.

use tributary_protocol::id::Hash;
use tributary_protocol::message::Message;
use tributary_protocol::proof::{MAGIC, Proof};

use crate::{fuzz, samples};

const CHANGES_EACH: usize = 300;

/// Draws from a seeded stream: no two runs differ.
struct Draws(blake3::OutputReader);

impl Draws {
    fn new(purpose: &str) -> Self {
        Self(blake3::Hasher::new_derive_key(purpose).finalize_xof())
    }

    fn below(&mut self, limit: usize) -> usize {
        let mut word = [0; 4];
        self.0.fill(&mut word);
        usize::try_from(u32::from_le_bytes(word)).expect("32 bits fit") % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).expect("below 256")
    }
}

fn change(data: &mut Vec<u8>, other: &[u8], draws: &mut Draws) {
    let place = draws.below(data.len());
    match draws.below(6) {
        0 if !data.is_empty() => data[place] ^= 1 << draws.below(8),
        1 if !data.is_empty() => data[place] = [0, 1, 127, 128, 255][draws.below(5)],
        2 => data.insert(place, draws.byte()),
        3 if !data.is_empty() => {
            data.remove(place);
        }
        4 => data.truncate(place),
        _ => {
            data.truncate(place);
            data.extend_from_slice(&other[draws.below(other.len())..]);
        }
    }
}

#[test]
fn no_changed_body_panics_or_has_two_encodings() {
    let messages = samples::messages();
    let mut draws = Draws::new("tributary smoke fuzz v1");
    for message in &messages {
        let whole = message.to_body();
        assert!(fuzz::read_and_write(message.kind(), &whole[4..]));
        let other = messages[draws.below(messages.len())].to_body();
        for _ in 0..CHANGES_EACH {
            let mut data = whole[4..].to_vec();
            for _ in 0..=draws.below(3) {
                change(&mut data, &other, &mut draws);
            }
            fuzz::read_and_write(message.kind(), &data);
        }
    }
}

#[test]
fn no_changed_proof_panics_or_has_two_encodings() {
    let releases = samples::messages().into_iter().filter_map(|message| match message {
        Message::Release(release) => Some(release),
        _ => None,
    });
    let mut draws = Draws::new("tributary smoke fuzz of proofs v1");
    for release in releases {
        let proof = Proof::Row { network: samples::network(), release, built: Hash([9; 32]) }.to_bytes();
        let whole = &proof[MAGIC.len()..];
        assert!(fuzz::read_and_judge(whole));
        for _ in 0..10 * CHANGES_EACH {
            let mut data = whole.to_vec();
            change(&mut data, whole, &mut draws);
            fuzz::read_and_judge(&data);
        }
    }
}

#[test]
fn each_kind_has_a_fuzz_target() {
    let manifest = include_str!("../../fuzz/Cargo.toml");
    for (kind, name) in Message::KINDS {
        assert!(manifest.contains(&format!("name = \"k{kind:02}_")), "no fuzz target for {name}");
    }
}
