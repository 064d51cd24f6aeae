use std::collections::BTreeSet;

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, AutoCommit, ROOT};
use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};
use tributary_protocol::id::{AccountId, NodeId};

use super::bounds::check_operations;
use super::{
    Applied, Card, CardDocument, CardError, MAX_CHANGE_BYTES, MAX_DESCRIPTION_BYTES, MAX_LABELS, MAX_TITLE_BYTES,
    Writer,
};

fn writer(number: u8) -> Writer {
    Writer { account: AccountId([number; 32]), node: NodeId([number; 32]) }
}

fn edit(card: &mut CardDocument, number: u8, change: impl FnOnce(&mut Card)) -> Vec<u8> {
    card.edit(&writer(number), change).unwrap().unwrap()
}

#[test]
fn an_edit_travels_as_one_change() {
    let (mut here, mut there) = (CardDocument::new(3), CardDocument::new(3));
    let change = edit(&mut here, 1, |card| {
        card.title = "Almanac of Velmora".to_owned();
        card.description = "Fäcts about a country — invented.".to_owned();
        card.tags.insert("geography".to_owned());
        card.languages.insert("en".to_owned());
    });
    assert_eq!(there.apply(&AccountId([1; 32]), &change), Ok(Applied::New));
    assert_eq!(there.apply(&AccountId([1; 32]), &change), Ok(Applied::Known));
    assert_eq!(there.card().unwrap(), here.card().unwrap());
    assert_eq!(there.heads(), here.heads());
    assert_eq!(there.card().unwrap().title, "Almanac of Velmora");
}

#[test]
fn every_card_begins_alike() {
    assert_eq!(CardDocument::new(3).heads(), CardDocument::new(3).heads());
    assert_eq!(CardDocument::new(3).card().unwrap(), Card::default());
}

#[test]
fn edits_made_at_once_are_merged_and_both_sides_agree() {
    let (mut here, mut there) = (CardDocument::new(3), CardDocument::new(3));
    let first = edit(&mut here, 1, |card| card.description = "The harbour is grey.".to_owned());
    there.apply(&AccountId([1; 32]), &first).unwrap();

    let ours = edit(&mut here, 1, |card| {
        card.description = "The old harbour is grey.".to_owned();
        card.tags.extend(["sea".to_owned(), "ours".to_owned()]);
        card.title = "One".to_owned();
    });
    let theirs = edit(&mut there, 2, |card| {
        card.description = "The harbour is grey and cold.".to_owned();
        card.tags.extend(["sea".to_owned(), "theirs".to_owned()]);
        card.title = "Two".to_owned();
    });
    here.apply(&AccountId([2; 32]), &theirs).unwrap();
    there.apply(&AccountId([1; 32]), &ours).unwrap();

    let card = here.card().unwrap();
    assert_eq!(card, there.card().unwrap());
    assert_eq!(card.description, "The old harbour is grey and cold.");
    assert_eq!(card.tags, BTreeSet::from(["ours", "sea", "theirs"].map(str::to_owned)));
    assert!(["One", "Two"].contains(&card.title.as_str()));
}

#[test]
fn no_change_is_no_bytes() {
    let mut card = CardDocument::new(3);
    assert_eq!(card.edit(&writer(1), |_| ()).unwrap(), None);
}

#[test]
fn a_change_of_another_hand_is_refused() {
    let (mut here, mut there) = (CardDocument::new(3), CardDocument::new(3));
    let change = edit(&mut here, 1, |card| card.title = "mine".to_owned());
    let author = AccountId([9; 32]);
    assert_eq!(there.apply(&author, &change), Err(CardError::WrongAuthor { author }));
    assert_eq!(there.card().unwrap(), Card::default());
}

#[test]
fn a_change_ahead_of_its_time_names_what_is_missing() {
    let (mut here, mut there) = (CardDocument::new(3), CardDocument::new(3));
    let first = edit(&mut here, 1, |card| card.title = "1".to_owned());
    let needed = here.heads();
    let second = edit(&mut here, 1, |card| card.title = "2".to_owned());
    let author = AccountId([1; 32]);
    assert_eq!(there.apply(&author, &second), Err(CardError::Missing { missing: needed }));
    there.apply(&author, &first).unwrap();
    there.apply(&author, &second).unwrap();
    assert_eq!(there.card().unwrap().title, "2");
}

#[test]
fn texts_beyond_the_bounds_are_refused_and_the_card_stays() {
    let mut card = CardDocument::new(3);
    let too_long = |error: Result<Option<Vec<u8>>, CardError>| matches!(error, Err(CardError::TooLarge { .. }));
    assert!(too_long(card.edit(&writer(1), |card| card.title = "x".repeat(MAX_TITLE_BYTES + 1))));
    assert!(too_long(card.edit(&writer(1), |card| card.description = "x".repeat(MAX_DESCRIPTION_BYTES + 1))));
    let many = (0..=MAX_LABELS).map(|number| number.to_string());
    assert!(too_long(card.edit(&writer(1), |card| card.tags.extend(many))));
    assert!(too_long(card.edit(&writer(1), |card| card.languages.extend(["x".repeat(100)]))));
    assert_eq!(card.card().unwrap(), Card::default());
    let full =
        card.edit(&writer(1), |card| card.description = "ü".repeat(MAX_DESCRIPTION_BYTES / 16)).unwrap().unwrap();
    assert!(full.len() < MAX_CHANGE_BYTES);
    assert_eq!(CardDocument::new(3).apply(&AccountId([1; 32]), &full), Ok(Applied::New));
}

/// A change made with the bare library, as a hostile member would.
fn foreign(work: impl FnOnce(&mut AutoCommit)) -> Vec<u8> {
    let mut document: AutoCommit = CardDocument::new(3).document.with_actor(ActorId::from(vec![5; 64]));
    work(&mut document);
    document.commit_with(CommitOptions::default().with_time(0));
    document.get_last_local_change().unwrap().raw_bytes().to_vec()
}

#[test]
fn a_change_that_breaks_the_card_is_refused() {
    let author = AccountId([5; 32]);
    let mut card = CardDocument::new(3);
    let gone = foreign(|document| document.delete(ROOT, "title").unwrap());
    assert!(matches!(card.apply(&author, &gone), Err(CardError::Breaks(_))));
    let number = foreign(|document| document.put(ROOT, "description", 7).unwrap());
    assert!(matches!(card.apply(&author, &number), Err(CardError::Breaks(_))));
    let long = foreign(|document| document.put(ROOT, "title", "x".repeat(300)).unwrap());
    assert!(matches!(card.apply(&author, &long), Err(CardError::TooLarge { .. })));
    let huge = foreign(|document| document.put(ROOT, "other", "x".repeat(MAX_CHANGE_BYTES)).unwrap());
    assert!(matches!(card.apply(&author, &huge), Err(CardError::TooLarge { .. })));
    assert_eq!(card.card().unwrap(), Card::default());
    assert_eq!(card.heads(), CardDocument::new(3).heads());
}

#[test]
fn the_operations_of_a_real_change_are_counted() {
    let change = foreign(|document| (0..300_i64).for_each(|number| document.put(ROOT, "other", number).unwrap()));
    assert_eq!(check_operations(&change, 300), Ok(()));
    assert!(matches!(check_operations(&change, 299), Err(CardError::TooLarge { .. })));
}

#[test]
fn a_card_is_rebuilt_from_its_checked_changes() {
    let mut card = CardDocument::new(3);
    let kept = edit(&mut card, 1, |card| card.title = "kept".to_owned());
    let tagged = edit(&mut card, 2, |card| card.tags.extend(["a".to_owned()]));
    let authors = [writer(1).account, writer(2).account];
    let changes = [(&authors[0], &kept[..]), (&authors[1], &tagged[..])];
    let mut rebuilt = CardDocument::new(3);
    rebuilt.extend(changes[..1].iter().copied()).unwrap();
    rebuilt.extend(changes).unwrap();
    assert_eq!(rebuilt.card().unwrap(), card.card().unwrap());
    assert_eq!(rebuilt.heads(), card.heads());
    assert_eq!((rebuilt.bytes, &rebuilt.operations), (card.bytes, &card.operations));
    assert!(rebuilt.extend([(&authors[0], &b"no change"[..])]).is_err());
    assert_eq!(rebuilt.heads(), card.heads());
}

#[test]
fn an_author_who_wears_the_card_out_is_stopped_and_the_others_are_not() {
    let mut card = CardDocument::new(3);
    card.share = 1_000;
    let mut written = 0;
    let refused = loop {
        let text = if written % 2 == 0 { "x".repeat(200) } else { String::new() };
        match card.edit(&writer(1), |card| card.description = text) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, CardError::TooLarge { limit: 1_000, .. }), "{refused}");
    assert!(written > 2, "{written}");
    let (before, heads) = (card.card().unwrap(), card.heads());
    let change = foreign(|document| {
        (0..1_001_i64).for_each(|number| document.put(ROOT, "other", number).unwrap());
    });
    assert!(matches!(card.apply(&AccountId([5; 32]), &change), Err(CardError::TooLarge { limit: 1_000, .. })));
    assert_eq!((card.card().unwrap(), card.heads()), (before, heads));
    edit(&mut card, 2, |card| card.title = "still mine".to_owned());
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(12))]

    #[test]
    fn peers_agree_whatever_they_did_and_whenever_they_met(
        steps in prop::collection::vec((0..3_usize, 0..5_u8, "[a-zäö ]{0,12}", any::<bool>()), 1..25),
    ) {
        let mut peers = [CardDocument::new(3), CardDocument::new(3), CardDocument::new(3)];
        let mut made: Vec<(AccountId, Vec<u8>)> = Vec::new();
        for (peer, action, word, meet) in steps {
            let writer = writer(u8::try_from(peer).unwrap());
            let change = peers[peer].edit(&writer, |card| match action {
                0 => card.title = word,
                1 => card.description.push_str(&word),
                2 => card.description = word,
                3 => card.tags.extend([word]),
                _ => drop(card.tags.pop_first()),
            });
            made.extend(change.unwrap().map(|bytes| (writer.account, bytes)));
            if meet {
                deliver(&mut peers[(peer + 1) % 3], &made);
            }
        }
        for peer in &mut peers {
            deliver(peer, &made);
        }
        let card = peers[0].card().unwrap();
        for peer in &peers[1..] {
            prop_assert_eq!(&peer.card().unwrap(), &card);
            prop_assert_eq!(peer.heads(), peers[0].heads());
        }
    }

    #[test]
    fn any_change_of_a_change_is_answered(place in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut card = CardDocument::new(3);
        let mut change = edit(&mut CardDocument::new(3), 1, |card| {
            card.title = "title".to_owned();
            card.description = "a description".to_owned();
        });
        let place = place.index(change.len());
        let same = change[place] == value;
        change[place] = value;
        prop_assert!(card.apply(&AccountId([1; 32]), &change).is_err() || same);
        prop_assert!(card.apply(&AccountId([1; 32]), &change[..place]).is_err());
    }
}

/// Gives a peer all changes from the last to the first, again and again, until none is missing any more.
fn deliver(peer: &mut CardDocument, made: &[(AccountId, Vec<u8>)]) {
    let mut waiting: Vec<_> = made.iter().collect();
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut missing = |(author, bytes): &(AccountId, Vec<u8>)| {
            matches!(peer.apply(author, bytes), Err(CardError::Missing { .. }))
        };
        waiting = waiting.into_iter().rev().filter(|change| missing(change)).collect();
        assert!(waiting.len() < before);
    }
}
