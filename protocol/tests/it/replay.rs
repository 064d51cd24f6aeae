//! Replays: an envelope counts once, late ones within the window still do, and clocks must roughly agree.

use std::collections::BTreeSet;

use proptest::prelude::*;
use tributary_protocol::envelope::{self, EnvelopeError, ReplayGuard, seal};
use tributary_protocol::limits::{CLOCK_WINDOW_MS, REPLAY_WINDOW};
use tributary_protocol::message::Message;

use crate::samples::{self, NOW_MS};

fn envelope_of(signer: u8, sequence: u64) -> Vec<u8> {
    let message = Message::BatchesWanted(sequence);
    seal(&samples::key(signer), samples::network(), sequence, NOW_MS, message.kind(), message.to_body())
}

fn open(guard: &mut ReplayGuard, bytes: &[u8]) -> Result<(), EnvelopeError> {
    envelope::open(bytes, samples::network(), NOW_MS, guard).map(|_| ())
}

#[test]
fn an_envelope_counts_once() {
    let mut guard = ReplayGuard::default();
    let bytes = envelope_of(1, 10);
    assert_eq!(open(&mut guard, &bytes), Ok(()));
    assert_eq!(open(&mut guard, &bytes), Err(EnvelopeError::Replay(10)));
}

#[test]
fn late_ones_count_within_the_window_and_not_beyond_it() {
    let mut guard = ReplayGuard::default();
    assert_eq!(open(&mut guard, &envelope_of(1, 5_000)), Ok(()));
    assert_eq!(open(&mut guard, &envelope_of(1, 5_000 - REPLAY_WINDOW + 1)), Ok(()));
    let old = 5_000 - REPLAY_WINDOW;
    assert_eq!(open(&mut guard, &envelope_of(1, old)), Err(EnvelopeError::Replay(old)));
}

#[test]
fn signers_do_not_disturb_each_other() {
    let mut guard = ReplayGuard::default();
    assert_eq!(open(&mut guard, &envelope_of(1, 5_000)), Ok(()));
    assert_eq!(open(&mut guard, &envelope_of(2, 1)), Ok(()));
}

#[test]
fn a_forged_envelope_does_not_use_up_a_number() {
    let mut guard = ReplayGuard::default();
    let mut forged = envelope_of(1, 10);
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(open(&mut guard, &forged), Err(EnvelopeError::Signature));
    assert_eq!(open(&mut guard, &envelope_of(1, 10)), Ok(()));
}

#[test]
fn a_foreign_clock_is_refused() {
    let bytes = envelope_of(1, 10);
    for clock_ms in [NOW_MS - CLOCK_WINDOW_MS - 1, NOW_MS + CLOCK_WINDOW_MS + 1] {
        let refused = envelope::open(&bytes, samples::network(), clock_ms, &mut ReplayGuard::default());
        assert_eq!(refused, Err(EnvelopeError::Clock { sent_ms: NOW_MS, now_ms: clock_ms }));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_guard_is_a_set_with_a_window(sequences in prop::collection::vec(0..3_000_u64, 1..60)) {
        let mut guard = ReplayGuard::default();
        let mut seen = BTreeSet::new();
        for sequence in sequences {
            let newest = seen.last().copied().unwrap_or(0);
            let within = seen.is_empty() || sequence + REPLAY_WINDOW > newest;
            let expected = within && !seen.contains(&sequence);
            prop_assert_eq!(open(&mut guard, &envelope_of(1, sequence)).is_ok(), expected, "sequence {}", sequence);
            if expected {
                seen.insert(sequence);
            }
        }
    }
}
