//! Properties of the codec: one value has one encoding, and nothing else is read.

use proptest::prelude::*;
use tributary_protocol::card::{CardChange, CardHead, CardLogs};
use tributary_protocol::datanet::{Appended, Head, LogHead};
use tributary_protocol::envelope::{self, NetworkId, ReplayGuard, Signed, seal};
use tributary_protocol::id::{AccountId, Amount, DatanetId, Hash, TaskId};
use tributary_protocol::limits::{CARD_BATCH_MAX, CARD_CHANGE_MAX_BYTES, LOG_BATCH_MAX};
use tributary_protocol::message::{BASE_ALONE, Heartbeat, HeldOut, Measurement, Message, MessageError, Together};
use tributary_protocol::receipt::SignedReceipt;
use tributary_protocol::refusal::{DeclineReason, Declined};
use tributary_protocol::wire::{self, WireError};

use crate::samples;

fn sealed(message: &Message) -> Vec<u8> {
    seal(&samples::key(99), samples::network(), 5, samples::NOW_MS, message.kind(), message.to_body())
}

fn opens(bytes: &[u8], network: NetworkId) -> bool {
    let opened = envelope::open(bytes, network, samples::NOW_MS, &mut ReplayGuard::default());
    opened.is_ok_and(|opened| Message::from_body(opened.kind, &opened.body).is_ok())
}

#[test]
fn every_message_survives_the_way() {
    for message in samples::messages() {
        let bytes = sealed(&message);
        let opened = envelope::open(&bytes, samples::network(), samples::NOW_MS, &mut ReplayGuard::default()).unwrap();
        assert_eq!(Message::from_body(opened.kind, &opened.body).unwrap(), message);
    }
}

#[test]
fn a_knowledge_cluster_has_several_members_who_were_left_out_by_one_training() {
    let is_read = |together: [Option<Together>; 2], leave_out: Hash, estimated: bool| {
        let mut release = samples::release();
        for (one, together) in release.contributors.iter_mut().zip(together) {
            (one.together, one.leave_out, one.estimated) = (together, leave_out, false);
        }
        release.contributors[1].estimated = estimated;
        let message = Message::Release(Box::new(samples::signed(51, release)));
        Message::from_body(message.kind(), &message.to_body()).is_ok()
    };
    let in_cluster = |first: u32, without: Hash| Some(Together { first, without });
    let (own, blob, other) = (Hash([7; 32]), Hash([1; 32]), Hash([2; 32]));
    assert!(is_read([None, None], own, false) && is_read([in_cluster(0, blob); 2], own, false));
    assert!(is_read([in_cluster(0, BASE_ALONE); 2], own, false), "without everybody");
    for unsound in [
        [in_cluster(0, blob), None],
        [in_cluster(0, blob), in_cluster(0, other)],
        [in_cluster(1, blob); 2],
        [in_cluster(0, blob), in_cluster(1, blob)],
        [in_cluster(0, BASE_ALONE), None],
    ] {
        assert!(!is_read(unsound, own, false), "{unsound:?}");
    }
    assert!(!is_read([in_cluster(0, blob); 2], own, true), "a cluster is left out by a training");
    assert!(!is_read([None, None], BASE_ALONE, false), "two contributors");
    assert_eq!(samples::release().clusters(), Vec::<Vec<u32>>::new());
}

#[test]
fn any_changed_byte_of_an_envelope_is_refused() {
    for message in samples::messages() {
        let bytes = sealed(&message);
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << (place % 8);
            assert!(!opens(&changed, samples::network()), "kind {} with byte {place} changed", message.kind());
        }
    }
}

#[test]
fn any_shortened_or_lengthened_envelope_is_refused() {
    for message in samples::messages() {
        let bytes = sealed(&message);
        for length in 0..bytes.len() {
            assert!(!opens(&bytes[..length], samples::network()), "kind {} cut to {length}", message.kind());
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(!opens(&longer, samples::network()));
    }
}

#[test]
fn another_network_s_envelope_is_refused() {
    for message in samples::messages() {
        assert!(!opens(&sealed(&message), NetworkId::named("another")));
    }
}

#[test]
fn another_kind_in_the_header_is_refused() {
    for message in samples::messages() {
        let body = message.to_body();
        for (kind, _) in Message::KINDS.iter().filter(|(kind, _)| *kind != message.kind()) {
            let refused = Message::from_body(*kind, &body);
            assert_eq!(refused, Err(MessageError::Kind { header: *kind, body: message.kind() }));
        }
    }
}

#[test]
fn bytes_after_a_body_are_refused() {
    for message in samples::messages() {
        let mut body = message.to_body();
        body.push(0);
        let refused = Message::from_body(message.kind(), &body);
        assert_eq!(refused, Err(MessageError::Wire(WireError::TrailingBytes(1))));
    }
}

#[test]
fn a_length_that_lies_allocates_nothing_and_is_refused() {
    for message in samples::messages() {
        let body = message.to_body();
        for place in (4..body.len().saturating_sub(8)).step_by(8) {
            let mut lying = body.clone();
            lying[place..place + 8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
            // Whether it is read or refused, it must come back.
            let _ = Message::from_body(message.kind(), &lying);
        }
    }
}

#[test]
fn a_head_out_of_order_is_out_of_bounds() {
    let mut head = samples::head();
    head.logs.reverse();
    let mut notes = samples::head();
    notes.notes = vec![notes.notes[0]; 2];
    for message in [Message::Head(head), Message::Head(notes)] {
        assert_eq!(Message::from_body(3, &message.to_body()), Err(MessageError::Bounds(3)));
    }
    let [note, _] = samples::notes();
    let many = Message::Notes(vec![Signed::new(samples::network(), &samples::key(1), note); LOG_BATCH_MAX + 1]);
    assert_eq!(Message::from_body(33, &many.to_body()), Err(MessageError::Bounds(33)));
}

#[test]
fn a_card_s_head_out_of_order_and_a_change_too_large_are_out_of_bounds() {
    let mut head = samples::card_head();
    head.logs.reverse();
    for message in [Message::CardHead(head.clone()), Message::CardWanted(head)] {
        let kind = message.kind();
        assert_eq!(Message::from_body(kind, &message.to_body()), Err(MessageError::Bounds(kind)));
    }
    let mut change = samples::card_change();
    change.change = vec![0; CARD_CHANGE_MAX_BYTES + 1];
    let one = |change: CardChange| Signed::new(samples::network(), &samples::key(2), change);
    let huge = Message::CardChanges(vec![one(change)]);
    assert_eq!(Message::from_body(31, &huge.to_body()), Err(MessageError::Bounds(31)));
    let many = Message::CardChanges(vec![one(samples::card_change()); CARD_BATCH_MAX + 1]);
    assert_eq!(Message::from_body(31, &many.to_body()), Err(MessageError::Bounds(31)));
}

#[test]
fn an_account_s_signature_is_no_envelope_s() {
    // A statement and an envelope over the same bytes are signed in different domains.
    let receipt = samples::signed_receipt();
    let digest = envelope::statement_digest(samples::network(), &receipt.receipt);
    assert!(envelope::verify_digest(&receipt.receipt.worker.0, digest, &receipt.worker_signature).is_ok());
    let other = envelope::statement_digest(NetworkId::named("another"), &receipt.receipt);
    assert!(envelope::verify_digest(&receipt.receipt.worker.0, other, &receipt.worker_signature).is_err());
}

prop_compose! {
    fn heads()(datanet in any::<[u8; 32]>(), logs in prop::collection::btree_map(any::<[u8; 32]>(), (1..1_000_u64, any::<[u8; 32]>()), 0..40)) -> Head {
        let logs: Vec<LogHead> = logs
            .into_iter()
            .map(|(contributor, (length, newest))| LogHead { contributor: AccountId(contributor), length, newest: Hash(newest) })
            .collect();
        Head { datanet: DatanetId(datanet), notes: logs.iter().take(9).copied().collect(), logs }
    }
}

/// Has `there` take what it lacks of `here`, in the batches in which it would travel.
fn pull(here: &CardLogs, there: &mut CardLogs) {
    while there.lacks_some_of(&here.head()) {
        let screened = there.screen(here.after(&there.head()));
        assert_eq!(screened.refused, None);
        assert!(!screened.fit.is_empty(), "every batch brings something");
        for entry in screened.fit {
            assert_eq!(there.append(entry), Ok(Appended::New));
        }
    }
}

prop_compose! {
    fn measurements()(numbers in any::<(u32, u64, u64, u32)>(), held_out in any::<Option<(u64, Option<u32>, Option<u32>)>>()) -> Measurement {
        let (step, elapsed_ms, loss_micro_nats, tokens_per_s) = numbers;
        let held_out = held_out.map(|(loss_micro_nats, exact_match_millionths, rouge_l_millionths)| HeldOut {
            loss_micro_nats,
            exact_match_millionths,
            rouge_l_millionths,
        });
        Measurement { step, elapsed_ms, loss_micro_nats, tokens_per_s, held_out }
    }
}

prop_compose! {
    fn heartbeats()(task in any::<[u8; 32]>(), numbers in any::<(u32, u32, u32, u64, u32)>(), curve in prop::collection::vec(measurements(), 0..8)) -> Heartbeat {
        let (round, step, steps, loss_micro_nats, tokens_per_s) = numbers;
        Heartbeat { task: TaskId(task), round, step, steps, loss_micro_nats, tokens_per_s, curve }
    }
}

proptest! {
    #[test]
    fn heads_and_heartbeats_survive_the_way(head in heads(), beat in heartbeats(), amount in any::<u128>()) {
        for message in [Message::Head(head), Message::Heartbeat(beat), Message::VoucherKept(Amount(amount))] {
            prop_assert_eq!(&Message::from_body(message.kind(), &message.to_body()).unwrap(), &message);
        }
    }

    #[test]
    fn declines_survive_the_way_within_their_bound(says in "\\PC{0,300}", asks in any::<u128>()) {
        let task = TaskId([7; 32]);
        let reasons = [DeclineReason::unable(&says), DeclineReason::BudgetTooLow { asks: Amount(asks) }, DeclineReason::Busy, DeclineReason::DatanetUnknown];
        for reason in reasons {
            let message = Message::Declined(Declined { task, reason });
            prop_assert_eq!(&Message::from_body(message.kind(), &message.to_body()).unwrap(), &message);
        }
        let message = Message::Declined(Declined { task, reason: DeclineReason::Unable { says: says.clone() } });
        prop_assert_eq!(Message::from_body(message.kind(), &message.to_body()).is_ok(), says.len() <= 128);
    }

    #[test]
    fn a_card_s_messages_survive_the_way(head in heads(), change in prop::collection::vec(any::<u8>(), 0..300), sequence in any::<u64>()) {
        let previous = Hash([sequence.to_le_bytes()[0]; 32]);
        let entry = CardChange { datanet: head.datanet, sequence, previous, change };
        let signed = Signed::new(samples::network(), &samples::key(2), entry);
        let head = CardHead { datanet: head.datanet, logs: head.logs };
        for message in [Message::CardHead(head.clone()), Message::CardWanted(head), Message::CardChanges(vec![signed.clone(), signed])] {
            prop_assert_eq!(&Message::from_body(message.kind(), &message.to_body()).unwrap(), &message);
        }
    }

    #[test]
    fn nodes_that_wrote_apart_and_met_have_the_same_changes(
        steps in prop::collection::vec((0..3_usize, 0..3_usize, 1..9_000_usize), 1..40),
    ) {
        let genesis = Signed::new(samples::network(), &samples::key(1), samples::genesis());
        let mut nodes = [(); 3].map(|()| CardLogs::begin(samples::network(), &genesis));
        for (node, other, length) in steps {
            // The genesis names 1 as owner, 2 and 3 as members.
            let key = samples::key(u8::try_from(node).unwrap() + 1);
            let (sequence, previous) = nodes[node].next_place(&AccountId(key.verifying_key().to_bytes()));
            let datanet = nodes[node].head().datanet;
            let entry = Signed::new(samples::network(), &key, CardChange { datanet, sequence, previous, change: vec![7; length] });
            nodes[node].append(entry).unwrap();
            let here = nodes[node].clone();
            pull(&here, &mut nodes[other]);
        }
        for place in [1, 2, 0, 1] {
            let here = nodes[place].clone();
            nodes.iter_mut().for_each(|node| pull(&here, node));
        }
        for node in &nodes[1..] {
            prop_assert_eq!(node.head(), nodes[0].head());
            prop_assert_eq!(node.cost(), nodes[0].cost());
        }
    }

    #[test]
    fn texts_and_lists_survive_the_way(
        name in "\\PC{0,40}", classes in prop::collection::vec("[a-z0-9 ]{0,60}", 0..8),
        addresses in prop::collection::vec("[a-z0-9/.]{0,80}", 0..16),
    ) {
        let mut genesis = samples::genesis();
        genesis.name = name;
        prop_assert_eq!(&wire::decode::<tributary_protocol::datanet::Genesis>(&wire::encode(&genesis), 4096).unwrap(), &genesis);
        let mut record = samples::peer_record();
        record.classes = classes;
        record.control = addresses;
        let message = Message::Peer(Box::new(record));
        prop_assert_eq!(&Message::from_body(1, &message.to_body()).unwrap(), &message);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), kind in 0..40_u16) {
        let _ = Message::from_body(kind, &bytes);
        let _ = envelope::open(&bytes, samples::network(), samples::NOW_MS, &mut ReplayGuard::default());
        let _ = wire::decode::<SignedReceipt>(&bytes, 4096);
        let mut enveloped = b"TRIB\x01\x00".to_vec();
        enveloped.extend_from_slice(&kind.to_le_bytes());
        enveloped.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
        enveloped.extend_from_slice(&bytes);
        prop_assert!(!opens(&enveloped, samples::network()));
    }

    #[test]
    fn what_is_read_is_written_the_same(pick in any::<prop::sample::Index>(), places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let messages = samples::messages();
        let message = &messages[pick.index(messages.len())];
        let mut body = message.to_body();
        for (place, byte) in places {
            let place = place.index(body.len());
            body[place] = byte;
        }
        if let Ok(read) = Message::from_body(message.kind(), &body) {
            prop_assert_eq!(read.to_body(), body);
        }
    }
}
