//! Commitments and attestations: what proves who was first, and what proves nothing.

use proptest::prelude::*;
use tributary_protocol::datanet::{
    Appended, Contribution, Datanet, DatanetError, Date, Dated, Genesis, LogHead, Policy,
};
use tributary_protocol::envelope::Signed;
use tributary_protocol::id::{AccountId, ChainAddress, Hash};
use tributary_protocol::limits::{NOTARIES_MAX, NOTE_LOGS_MAX};
use tributary_protocol::note::{Note, Opening, Says, Seen};

use crate::samples;

const VICTIM: u8 = 50;
const THIEF: u8 = 51;
const RECORDS: Hash = Hash([9; 32]);
const SALT: Hash = Hash([8; 32]);

fn account(number: u8) -> AccountId {
    AccountId(samples::key(number).verifying_key().to_bytes())
}

fn signed_genesis(notaries: Vec<AccountId>) -> Signed<Genesis> {
    let genesis = Genesis { policy: Policy::Open, notaries, ..samples::genesis() };
    Signed::new(samples::network(), &samples::key(1), genesis)
}

fn begin(notaries: impl IntoIterator<Item = u8>) -> Datanet {
    Datanet::begin(samples::network(), signed_genesis(notaries.into_iter().map(account).collect()))
        .expect("the genesis is sound")
}

fn contribute(datanet: &mut Datanet, by: u8, claimed_ms: u64, records_root: Hash, opening: Option<Opening>) {
    let (sequence, previous) = datanet.log_position(&account(by));
    let body = Contribution {
        datanet: datanet.id(),
        sequence,
        previous,
        shard: Hash([by; 32]),
        bytes: 7_000,
        records: 80,
        records_root,
        payout: ChainAddress([by; 20]),
        claimed_ms,
        opening,
    };
    let entry = Signed::new(samples::network(), &samples::key(by), body);
    assert_eq!(datanet.append(entry), Ok(Appended::New));
}

fn next_note(datanet: &Datanet, by: u8, at_ms: u64, says: Says) -> Note {
    let (sequence, previous) = datanet.note_position(&account(by));
    Note { datanet: datanet.id(), sequence, previous, at_ms, says }
}

fn append(datanet: &mut Datanet, by: u8, note: Note) -> Result<Appended, DatanetError> {
    datanet.append_note(Signed::new(samples::network(), &samples::key(by), note))
}

fn say(datanet: &mut Datanet, by: u8, at_ms: u64, says: Says) -> Result<Appended, DatanetError> {
    let note = next_note(datanet, by, at_ms, says);
    append(datanet, by, note)
}

/// Has a notary attest what it has not attested yet, if there is anything.
fn attest(datanet: &mut Datanet, by: u8, at_ms: u64) {
    if let Some(seen) = datanet.unattested(&account(by), at_ms) {
        assert_eq!(say(datanet, by, at_ms, Says::Attestation(seen)), Ok(Appended::New));
    }
}

fn commit(datanet: &mut Datanet, by: u8, at_ms: u64) -> Opening {
    let commitment = Opening::commitment(&datanet.id(), &account(by), &RECORDS, &SALT);
    assert_eq!(say(datanet, by, at_ms, Says::Commitment(commitment)), Ok(Appended::New));
    datanet.opening(&account(by), &RECORDS, SALT).expect("it committed to them")
}

fn version(datanet: &Datanet) -> Vec<Dated> {
    datanet.version(&datanet.head()).expect("the present version is here")
}

/// When the only entry of `by` is proven to be its own.
fn proven(datanet: &Datanet, by: u8) -> Option<u64> {
    let all = version(datanet);
    all.iter().find(|dated| dated.entry.account == account(by))?.proven(&RECORDS).map(|date| date.ms())
}

#[test]
fn who_committed_first_is_first_though_the_thief_publishes_before_and_claims_to_be_older() {
    let mut datanet = begin([1]);
    let opening = commit(&mut datanet, VICTIM, 100);
    attest(&mut datanet, 1, 200);
    contribute(&mut datanet, THIEF, 5, RECORDS, None);
    attest(&mut datanet, 1, 300);
    contribute(&mut datanet, VICTIM, 400, RECORDS, Some(opening));
    assert_eq!((proven(&datanet, VICTIM), proven(&datanet, THIEF)), (Some(200), Some(300)));
    attest(&mut datanet, 1, 500);
    assert_eq!((proven(&datanet, VICTIM), proven(&datanet, THIEF)), (Some(200), Some(300)));
}

#[test]
fn a_commitment_opens_to_its_own_account_s_exact_records_alone() {
    let mut datanet = begin([1]);
    let opening = commit(&mut datanet, VICTIM, 100);
    // The thief repeats the victim's commitment word for word, and opens it once it knows how.
    let copied = Opening::commitment(&datanet.id(), &account(VICTIM), &RECORDS, &SALT);
    say(&mut datanet, THIEF, 90, Says::Commitment(copied)).unwrap();
    attest(&mut datanet, 1, 200);
    contribute(&mut datanet, THIEF, 5, RECORDS, Some(opening));
    contribute(&mut datanet, VICTIM, 300, Hash([7; 32]), Some(opening));
    contribute(&mut datanet, VICTIM, 300, RECORDS, Some(Opening { note: 1, ..opening }));
    contribute(&mut datanet, VICTIM, 300, RECORDS, Some(Opening { note: u64::MAX, ..opening }));
    contribute(&mut datanet, VICTIM, 300, RECORDS, Some(Opening { salt: Hash([1; 32]), ..opening }));
    contribute(&mut datanet, VICTIM, 300, RECORDS, None);
    assert!(version(&datanet).iter().all(|dated| dated.committed.is_none()));
    contribute(&mut datanet, VICTIM, 300, RECORDS, Some(opening));
    let last = version(&datanet).into_iter().rfind(|dated| dated.entry.account == account(VICTIM)).unwrap();
    assert_eq!(last.committed, Some(Date::of(200)));
    assert_eq!(last.proven(&Hash([7; 32])), None, "the shard has other records than its entry says");
}

#[test]
fn without_notaries_or_before_a_majority_has_spoken_nothing_is_dated() {
    let mut alone = begin([]);
    contribute(&mut alone, VICTIM, 100, RECORDS, None);
    assert_eq!(proven(&alone, VICTIM), None);
    let mut datanet = begin([1, 2, 3]);
    contribute(&mut datanet, VICTIM, 100, RECORDS, None);
    attest(&mut datanet, 1, 200);
    assert_eq!(proven(&datanet, VICTIM), None);
    attest(&mut datanet, 2, 150);
    assert_eq!(proven(&datanet, VICTIM), Some(200));
}

#[test]
fn a_notary_that_was_away_and_sees_all_at_once_does_not_undo_what_the_others_saw() {
    let mut datanet = begin([1, 2]);
    contribute(&mut datanet, VICTIM, 90, RECORDS, None);
    attest(&mut datanet, 1, 100);
    contribute(&mut datanet, THIEF, 5, RECORDS, None);
    attest(&mut datanet, 1, 200);
    attest(&mut datanet, 2, 1_000);
    let all = version(&datanet);
    let date = |by| all.iter().find(|dated| dated.entry.account == account(by)).unwrap().attested.unwrap();
    assert_eq!((date(VICTIM).ms(), date(THIEF).ms()), (1_000, 1_000));
    assert!(date(VICTIM) < date(THIEF));
}

#[test]
fn an_own_commitment_of_a_sole_notary_needs_nobody_else() {
    let mut datanet = begin([1]);
    let opening = commit(&mut datanet, 1, 100);
    contribute(&mut datanet, 1, 300, RECORDS, Some(opening));
    assert_eq!(proven(&datanet, 1), Some(100));
}

#[test]
fn attestations_end_when_there_is_nothing_new() {
    let mut datanet = begin([1, 2]);
    commit(&mut datanet, 1, 50);
    commit(&mut datanet, VICTIM, 60);
    contribute(&mut datanet, VICTIM, 100, RECORDS, None);
    for round in 0..3 {
        attest(&mut datanet, 1, 200 + round);
        attest(&mut datanet, 2, 200 + round);
    }
    assert_eq!((datanet.note_position(&account(1)).0, datanet.note_position(&account(2)).0), (2, 1));
    assert_eq!(datanet.unattested(&account(1), u64::MAX), None);
}

#[test]
fn who_adds_all_the_time_uses_up_neither_a_notary_nor_the_dates_of_others() {
    let mut datanet = begin([1]);
    // An entry every quarter of a second for half an hour.
    let ticks = 4 * 1_800_u64;
    for tick in 1..=ticks {
        contribute(&mut datanet, THIEF, tick, RECORDS, None);
        attest(&mut datanet, 1, tick * 250);
    }
    let times = datanet.note_position(&account(1)).0;
    assert!((372..560).contains(&times), "{times}");
    // The newest of them waits, and somebody new for nothing.
    contribute(&mut datanet, VICTIM, 5, RECORDS, None);
    attest(&mut datanet, 1, ticks * 250 + 1);
    assert_eq!(proven(&datanet, VICTIM), Some(ticks * 250 + 1));
    attest(&mut datanet, 1, ticks * 250 + 300_000);
    assert_eq!(datanet.unattested(&account(1), u64::MAX), None);
}

#[test]
fn notes_that_do_not_hold_are_refused_and_change_nothing() {
    let mut datanet = begin([1]);
    contribute(&mut datanet, VICTIM, 100, RECORDS, None);
    let seen = datanet.unattested(&account(1), 200).unwrap();
    attest(&mut datanet, 1, 200);
    let log = |length| LogHead { contributor: account(VICTIM), length, newest: Hash([3; 32]) };
    let own = Seen { notes: vec![LogHead { contributor: account(1), ..log(1) }], logs: vec![log(2)] };
    let twice = Seen { logs: vec![log(2), log(3)], notes: Vec::new() };
    let attestation = |seen| Says::Attestation(seen);
    let before = (datanet.head(), version(&datanet));
    let malformed = [
        next_note(&datanet, 1, 200, Says::Commitment(Hash([1; 32]))),
        next_note(&datanet, 1, 300, attestation(seen)),
        next_note(&datanet, 1, 300, attestation(Seen::default())),
        next_note(&datanet, 1, 300, attestation(own)),
        next_note(&datanet, 1, 300, attestation(twice.clone())),
    ];
    for note in malformed {
        let refused = append(&mut datanet, 1, note.clone());
        assert!(matches!(refused, Err(DatanetError::Note(_))), "{note:?}: {refused:?}");
    }
    let seen = Seen { logs: vec![log(2)], notes: Vec::new() };
    let stranger = say(&mut datanet, THIEF, 300, attestation(seen.clone()));
    assert_eq!(stranger, Err(DatanetError::NotNotary(account(THIEF))));
    let good = next_note(&datanet, 1, 300, attestation(seen));
    let fork = DatanetError::Fork { contributor: account(1), sequence: 0 };
    assert_eq!(append(&mut datanet, 1, Note { sequence: 0, ..good.clone() }), Err(fork));
    let gap = DatanetError::Gap { expected: 1, got: 2 };
    assert_eq!(append(&mut datanet, 1, Note { sequence: 2, ..good.clone() }), Err(gap));
    assert!(append(&mut datanet, 1, Note { previous: Hash([4; 32]), ..good.clone() }).is_err());
    let elsewhere = Note { datanet: tributary_protocol::id::DatanetId([4; 32]), ..good.clone() };
    assert_eq!(append(&mut datanet, 1, elsewhere), Err(DatanetError::OtherDatanet));
    let mut forged = Signed::new(samples::network(), &samples::key(2), good);
    forged.account = account(1);
    assert!(matches!(datanet.append_note(forged), Err(DatanetError::Signature(_))));
    assert_eq!((datanet.head(), version(&datanet)), before);
}

#[test]
fn an_attestation_of_another_log_than_the_one_here_dates_nothing() {
    let mut datanet = begin([1]);
    contribute(&mut datanet, VICTIM, 100, RECORDS, None);
    let other = LogHead { contributor: account(VICTIM), length: 1, newest: Hash([3; 32]) };
    say(&mut datanet, 1, 200, Says::Attestation(Seen { logs: vec![other], notes: Vec::new() })).unwrap();
    assert_eq!(proven(&datanet, VICTIM), None);
}

#[test]
fn a_genesis_names_few_notaries_and_each_once() {
    let crowd = (0..=u8::try_from(NOTARIES_MAX).unwrap()).map(|number| account(number + 10));
    for notaries in [vec![account(2), account(2)], crowd.collect()] {
        let begun = Datanet::begin(samples::network(), signed_genesis(notaries));
        assert!(matches!(begun, Err(DatanetError::Genesis(_))), "{begun:?}");
    }
}

#[test]
fn strangers_commitments_leave_room_for_notaries_and_heads_stay_within_bounds() {
    let mut datanet = begin([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let fits =
        (10..=u8::MAX).filter(|by| say(&mut datanet, *by, 10, Says::Commitment(Hash([*by; 32]))).is_ok()).count();
    assert_eq!(fits, NOTE_LOGS_MAX - NOTARIES_MAX);
    for notary in 1..=9 {
        attest(&mut datanet, notary, 20);
    }
    assert_eq!(datanet.head().notes.len(), NOTE_LOGS_MAX);
    assert!(datanet.head().is_well_formed());
}

#[test]
fn versions_are_found_again_by_their_hash_with_the_notes_they_had() {
    let mut datanet = begin([1, 2]);
    let mut heads = Vec::new();
    for round in 1..20_u64 {
        // A notary's clock is behind the contributors'.
        contribute(&mut datanet, VICTIM, 1_000 * round, Hash([u8::try_from(round).unwrap(); 32]), None);
        heads.push(datanet.head());
        attest(&mut datanet, 1, 900 * round);
        heads.push(datanet.head());
        attest(&mut datanet, 2, 1_000 * round + 500);
        heads.push(datanet.head());
    }
    for head in heads {
        let lengths = |logs: &[LogHead]| logs.iter().map(|log| (log.contributor, log.length)).collect::<Vec<_>>();
        let found = datanet.head_of(&head.id(), lengths(&head.logs), lengths(&head.notes));
        assert_eq!(found.as_ref(), Some(&head));
        assert_eq!(
            datanet.version(&head).unwrap().len(),
            usize::try_from(head.logs.first().map_or(0, |log| log.length)).unwrap()
        );
    }
}

#[test]
fn who_lacks_a_note_of_a_version_does_not_have_it() {
    let mut whole = begin([1]);
    contribute(&mut whole, VICTIM, 100, RECORDS, None);
    let mut part = whole.clone();
    attest(&mut whole, 1, 200);
    assert_eq!(part.version(&whole.head()), None);
    for note in whole.notes_from(&account(1), 0, 10) {
        assert_eq!(part.append_note(note.clone()), Ok(Appended::New));
        assert_eq!(part.append_note(note), Ok(Appended::Known), "a second time changes nothing");
    }
    assert_eq!(part.version(&whole.head()), Some(version(&whole)));
}

proptest! {
    #[test]
    fn fewer_than_a_majority_of_notaries_backdate_nothing_and_dates_only_grow_older(
        count in 1..=9_u8, rogues in 0..5_u8, seen_ms in 1_000..2_000_u64, delays in prop::collection::vec(0..500_u64, 9), lies in prop::collection::vec(1..3_000_u64, 9),
    ) {
        let mut datanet = begin(1..=count);
        let rogues = usize::from(rogues).min(datanet.quorum() - 1);
        contribute(&mut datanet, THIEF, 5, RECORDS, None);
        let mut before: Option<u64> = None;
        for (notary, (delay, lie)) in (1..=count).zip(delays.into_iter().zip(lies)) {
            let at_ms = if usize::from(notary) <= rogues { lie } else { seen_ms + delay };
            attest(&mut datanet, notary, at_ms);
            let now = proven(&datanet, THIEF);
            prop_assert!(before.is_none_or(|before| now.is_some_and(|now| now <= before)));
            before = now;
        }
        prop_assert!(before.is_some_and(|date| date >= seen_ms), "{:?} before {}", before, seen_ms);
    }

    #[test]
    fn a_sole_notary_puts_nothing_before_what_it_has_attested(times in prop::collection::vec(1..400_u64, 1..12)) {
        let mut datanet = begin([1]);
        let opening = commit(&mut datanet, VICTIM, 100);
        attest(&mut datanet, 1, 200);
        contribute(&mut datanet, VICTIM, 300, RECORDS, Some(opening));
        contribute(&mut datanet, THIEF, 1, RECORDS, None);
        for at_ms in times {
            if let Some(seen) = datanet.unattested(&account(1), at_ms) {
                let said = say(&mut datanet, 1, at_ms, Says::Attestation(seen));
                prop_assert_eq!(said.is_ok(), at_ms > 200);
            }
            prop_assert_eq!(proven(&datanet, VICTIM), Some(200));
            prop_assert!(proven(&datanet, THIEF).is_none_or(|date| date > 200));
        }
    }

    #[test]
    fn notes_give_the_same_dates_in_whatever_order_logs_arrive(
        steps in prop::collection::vec((0..3_u8, 0..4_u8), 1..30), turns in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let mut datanet = begin([1, 2]);
        for (at, (what, who)) in (1..).zip(steps) {
            match what {
                0 => contribute(&mut datanet, 50 + who, 10 * at, Hash([who; 32]), None),
                1 => { say(&mut datanet, 50 + who, 10 * at, Says::Commitment(Hash([who; 32]))).unwrap(); }
                _ => attest(&mut datanet, 1 + who % 2, 10 * at),
            }
        }
        let mut notes: Vec<Vec<Signed<Note>>> = datanet.head().notes.iter().map(|log| datanet.notes_from(&log.contributor, 0, 1_000)).collect();
        let mut other = begin([1, 2]);
        let mut turns = turns.into_iter();
        while notes.iter().any(|log| !log.is_empty()) {
            let filled: Vec<usize> = (0..notes.len()).filter(|log| !notes[*log].is_empty()).collect();
            let log = turns.next().map_or(filled[0], |turn| *turn.get(&filled));
            prop_assert_eq!(other.append_note(notes[log].remove(0)), Ok(Appended::New));
        }
        for entry in datanet.all_entries() {
            other.append(entry.clone()).unwrap();
        }
        prop_assert_eq!(other.head(), datanet.head());
        prop_assert_eq!(version(&other), version(&datanet));
    }
}
