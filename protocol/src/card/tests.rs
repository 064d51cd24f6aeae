use ed25519_dalek::SigningKey;

use super::{CardChange, CardError, CardHead, CardLogs};
use crate::datanet::{Appended, Genesis, Policy, Schema};
use crate::envelope::{NetworkId, Signed};
use crate::id::{AccountId, DatanetId, Hash, Signature};
use crate::limits::{CARD_BATCH_MAX, CARD_BATCH_MAX_BYTES, CARD_CHANGE_MAX_BYTES, CARD_EDITORS_MAX};

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn account(number: u8) -> AccountId {
    AccountId(key(number).verifying_key().to_bytes())
}

fn network() -> NetworkId {
    NetworkId::named("card")
}

/// A card that 1 owns and 2 may edit too.
fn card_with(policy: Policy) -> CardLogs {
    let body = Genesis {
        name: "letters".into(),
        owners: vec![account(1)],
        licence: "CC0-1.0".into(),
        policy,
        schema: Schema::Text,
        notaries: Vec::new(),
        created_ms: 7,
    };
    CardLogs::begin(network(), &Signed::new(network(), &key(1), body))
}

fn card() -> CardLogs {
    card_with(Policy::Members(vec![account(2)]))
}

/// The next change of an editor on top of `logs`.
fn next(logs: &CardLogs, editor: u8, change: &[u8]) -> Signed<CardChange> {
    let (sequence, previous) = logs.next_place(&account(editor));
    let body = CardChange { datanet: logs.datanet, sequence, previous, change: change.to_vec() };
    Signed::new(network(), &key(editor), body)
}

fn refused(logs: &CardLogs, entry: Signed<CardChange>) -> CardError {
    let screened = logs.screen(vec![entry]);
    assert!(screened.fit.is_empty());
    screened.refused.expect("refused")
}

#[test]
fn owners_edit_and_members_where_the_policy_names_them() {
    assert!(card().is_editor(&account(1)) && card().is_editor(&account(2)));
    let open = card_with(Policy::Open);
    assert!(open.is_editor(&account(1)) && !open.is_editor(&account(2)));
    assert_eq!(refused(&open, next(&open, 2, b"x")), CardError::NotEditor(account(2)));
}

#[test]
fn a_batch_is_read_in_order_and_what_is_known_is_left_out() {
    let (mut here, mut there) = (card(), card());
    for (editor, change) in [(1, b"a"), (2, b"b"), (1, b"c"), (1, b"d")] {
        let entry = next(&here, editor, change);
        assert_eq!(here.append(entry.clone()), Ok(Appended::New));
        assert_eq!(here.append(entry), Ok(Appended::Known));
    }
    assert!(there.lacks_some_of(&here.head()) && !here.lacks_some_of(&there.head()));
    let batch = here.after(&there.head());
    assert_eq!(batch.len(), 4);
    let screened = there.screen(batch.clone());
    assert_eq!((screened.fit.len(), screened.refused), (4, None));
    for entry in screened.fit {
        there.append(entry).unwrap();
    }
    assert_eq!(there.head(), here.head());
    assert!(here.after(&there.head()).is_empty());
    let again = there.screen(batch);
    assert_eq!((again.fit.len(), again.refused), (0, None), "a replay is nothing");
}

#[test]
fn forged_foreign_empty_and_oversize_changes_are_refused() {
    let logs = card();
    let mut forged = next(&logs, 2, b"x");
    forged.account = account(1);
    assert!(matches!(refused(&logs, forged), CardError::Signature(_)));
    let mut forged = next(&logs, 2, b"x");
    forged.signature = Signature([7; 64]);
    assert!(matches!(refused(&logs, forged), CardError::Signature(_)));
    let mut foreign = next(&logs, 2, b"x");
    foreign.body.datanet = DatanetId([9; 32]);
    assert_eq!(refused(&logs, foreign), CardError::OtherDatanet);
    assert_eq!(refused(&logs, next(&logs, 2, b"")), CardError::Size(0));
    let huge = vec![0; CARD_CHANGE_MAX_BYTES + 1];
    assert_eq!(refused(&logs, next(&logs, 2, &huge)), CardError::Size(huge.len()));
}

#[test]
fn gaps_and_forks_are_told_apart_and_change_nothing() {
    let mut logs = card();
    let first = next(&logs, 1, b"a");
    let other = next(&logs, 1, b"b");
    logs.append(first).unwrap();
    let head = logs.head();
    let fork = CardError::Fork { editor: account(1), sequence: 0 };
    assert_eq!(refused(&logs, other.clone()), fork);
    assert_eq!(logs.append(other.clone()), Err(fork.clone()));
    let slander = Signed { signature: Signature([7; 64]), ..other.clone() };
    assert!(matches!(refused(&logs, slander), CardError::Signature(_)), "nobody else can make a fork of it");
    let independent = next(&logs, 2, b"d");
    let screened = logs.screen(vec![other, independent.clone()]);
    assert_eq!((screened.fit, screened.refused), (vec![independent], Some(fork.clone())), "others may go on");
    let mut gap = next(&logs, 1, b"c");
    gap.body.sequence = 5;
    assert_eq!(refused(&logs, gap), CardError::Gap { expected: 1, got: 5 });
    let mut torn = next(&logs, 1, b"c").body;
    torn.previous = Hash([3; 32]);
    let torn = Signed::new(network(), &key(1), torn);
    assert_eq!(refused(&logs, torn), CardError::Fork { editor: account(1), sequence: 1 });
    assert_eq!(logs.head(), head);
}

#[test]
fn one_editor_cannot_fill_the_card_for_the_other() {
    let mut logs = card();
    let change = vec![7; CARD_CHANGE_MAX_BYTES];
    let full = loop {
        let entry = next(&logs, 1, &change);
        if let Err(error) = logs.append(entry) {
            break error;
        }
    };
    assert_eq!(full, CardError::Full { editor: account(1), share: logs.share() });
    assert!(logs.cost() <= logs.share());
    assert_eq!(refused(&logs, next(&logs, 1, &change)), full);
    let entry = next(&logs, 2, &change);
    assert_eq!(logs.append(entry), Ok(Appended::New));
    // A message stays within its bounds, however much is lacking.
    let batch = logs.after(&card().head());
    assert!(!batch.is_empty() && batch.len() <= CARD_BATCH_MAX);
    assert!(batch.iter().map(|entry| entry.body.change.len()).sum::<usize>() <= CARD_BATCH_MAX_BYTES);
}

#[test]
fn the_smallest_share_has_room_for_the_largest_change() {
    let members = (2..=200).map(|number| AccountId([number; 32])).collect();
    let logs = card_with(Policy::Members(members));
    assert_eq!(logs.editor_count(), CARD_EDITORS_MAX);
    assert!(logs.is_editor(&account(1)), "owners come first");
    assert!(logs.check(&next(&logs, 1, &[7; CARD_CHANGE_MAX_BYTES])).is_ok());
}

#[test]
fn a_head_names_each_log_once_and_in_order() {
    let mut logs = card();
    for editor in [1, 2] {
        let entry = next(&logs, editor, b"x");
        logs.append(entry).unwrap();
    }
    let head = logs.head();
    assert!(head.is_well_formed());
    let broken = |change: &dyn Fn(&mut CardHead)| {
        let mut head = head.clone();
        change(&mut head);
        !head.is_well_formed()
    };
    assert!(broken(&|head| head.logs.reverse()));
    assert!(broken(&|head| head.logs[1] = head.logs[0]));
    assert!(broken(&|head| head.logs[0].length = 0));
    assert!(broken(&|head| head.logs = vec![head.logs[0]; CARD_EDITORS_MAX + 1]));
}
