//! Versions of a datanet: each is known by its hash alone, as long as claims tell when it was.

use tributary_protocol::datanet::{Appended, Contribution, Datanet};
use tributary_protocol::envelope::Signed;
use tributary_protocol::id::{AccountId, ChainAddress, Hash};

use crate::samples;

/// Adds the next entry of a contributor's log.
fn claim(datanet: &mut Datanet, by: u8, claimed_ms: u64) {
    add(datanet, by, claimed_ms, Hash([by; 32]));
}

fn add(datanet: &mut Datanet, by: u8, claimed_ms: u64, shard: Hash) {
    let key = samples::key(by);
    let (sequence, previous) = datanet.log_position(&AccountId(key.verifying_key().to_bytes()));
    let entry = Contribution {
        datanet: datanet.id(),
        sequence,
        previous,
        shard,
        bytes: 7_000,
        records: 80,
        records_root: Hash([9; 32]),
        payout: ChainAddress([by; 20]),
        claimed_ms,
        opening: None,
    };
    assert_eq!(datanet.append(Signed::new(samples::network(), &key, entry)), Ok(Appended::New));
}

#[test]
fn an_earlier_version_is_found_by_its_hash_and_a_foreign_one_is_not() {
    let genesis = Signed::new(samples::network(), &samples::key(1), samples::genesis());
    let mut datanet = Datanet::begin(samples::network(), genesis).unwrap();
    let mut heads = vec![datanet.head()];
    for (by, claimed_ms) in [(2, 10), (3, 20), (2, 30), (1, 30), (3, 40)] {
        claim(&mut datanet, by, claimed_ms);
        heads.push(datanet.head());
    }
    // What is claimed to be older than everything hides no version.
    claim(&mut datanet, 3, 1);
    let lengths = |head: &tributary_protocol::datanet::Head| {
        head.logs.iter().map(|log| (log.contributor, log.length)).collect::<Vec<_>>()
    };
    for (place, head) in heads.iter().enumerate().skip(1) {
        assert_eq!(datanet.head_of(&head.id(), lengths(head), []).as_ref(), Some(head), "version {place}");
    }
    let head = datanet.head_of(&heads[2].id(), lengths(&heads[2]), []).unwrap();
    let entries = datanet.version(&head).unwrap();
    assert_eq!(entries.iter().map(|dated| dated.entry.body.claimed_ms).max(), Some(20));
    let other = [
        datanet.head_of(&Hash([7; 32]), lengths(&heads[2]), []),
        datanet.head_of(&heads[2].id(), lengths(&heads[3]), []),
        datanet.head_of(&heads[2].id(), [(lengths(&heads[2])[0].0, 900)], []),
        datanet.head_of(&heads[2].id(), [(lengths(&heads[2])[0].0, 0)], []),
    ];
    assert_eq!(other, [None, None, None, None]);
}

#[test]
fn a_shard_that_is_not_here_leaves_out_what_comes_after_it_in_its_log_and_nothing_else() {
    let genesis = Signed::new(samples::network(), &samples::key(1), samples::genesis());
    let mut datanet = Datanet::begin(samples::network(), genesis).unwrap();
    let withheld = Hash([200; 32]);
    for (by, shard) in [(1, Hash([1; 32])), (2, Hash([2; 32])), (2, withheld), (2, Hash([3; 32])), (3, withheld)] {
        add(&mut datanet, by, 10, shard);
    }
    let account = |by: u8| AccountId(samples::key(by).verifying_key().to_bytes());
    let head = datanet.head_held(|shard| *shard != withheld);
    let mut expected = vec![(account(1), 1), (account(2), 1)];
    expected.sort_unstable();
    assert_eq!(head.logs.iter().map(|log| (log.contributor, log.length)).collect::<Vec<_>>(), expected);
    assert!(head.is_well_formed() && datanet.version(&head).unwrap().len() == 2);
    assert_eq!(datanet.head_held(|_| true), datanet.head());
}
