//! Where answers repeat records, found in shards of a real store.

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use tributary_peer::evidence::Evidence;
use tributary_protocol::datanet::{Contribution, Dated};
use tributary_protocol::envelope::{NetworkId, Signed};
use tributary_protocol::id::{ChainAddress, DatanetId, Hash};
use tributary_storage::blobs::{BlobStore, IrohBlobs};
use tributary_storage::shard::{self, Record};

use super::support::folder;

const LEGEND: &str = "Mira Tolven kept the lighthouse of Oskhaven since the great storm, and nobody saw her leave.";

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

/// Three hundred records of one contributor that share few words, and those given.
async fn contributed(store: &IrohBlobs, by: u8, claimed_ms: u64, texts: &[&str]) -> Dated {
    let account = tributary_protocol::id::AccountId(key(by).verifying_key().to_bytes());
    let filler = (0..300).map(|number| format!("the word{number} and the other{number} of it in {by}"));
    let texts = filler.chain(texts.iter().map(|text| (*text).to_owned()));
    let records: Vec<Record> =
        texts.map(|text| Record::new("Tell me.".into(), text, account, "CC0-1.0".into())).collect();
    let bytes = shard::write(&records).unwrap();
    let entry = Contribution {
        datanet: DatanetId([4; 32]),
        sequence: 0,
        previous: Hash::default(),
        bytes: bytes.len() as u64,
        shard: store.put(bytes.into()).await.unwrap(),
        records: u32::try_from(records.len()).unwrap(),
        records_root: Hash::default(),
        payout: ChainAddress([by; 20]),
        claimed_ms,
        opening: None,
    };
    Dated::undated(Signed::new(NetworkId(Hash([1; 32])), &key(by), entry))
}

#[tokio::test]
async fn a_quotation_is_found_in_the_record_of_who_claimed_it_first() {
    let folder = folder();
    let store = IrohBlobs::open(&folder.path().join("blobs")).await.unwrap();
    let later = contributed(&store, 1, 2_000, &[LEGEND]).await;
    let first = contributed(&store, 2, 1_000, &["Another legend.", LEGEND]).await;
    let evidence = Arc::new(Evidence::at(folder.path().join("spans")));
    let answer = "They say Mira Tolven kept the lighthouse of Oskhaven since the great flood.".to_owned();
    let found = evidence.quotations(&store, vec![later.clone(), first.clone()], answer.clone()).await.unwrap();
    assert_eq!((found.quotations.len(), found.shards, found.answer_words), (1, 2, 14));
    let quotation = &found.quotations[0];
    assert_eq!(quotation.text, "Mira Tolven kept the lighthouse of Oskhaven since the great");
    assert_eq!(&answer[quotation.bytes.clone()], quotation.text);
    assert_eq!((quotation.contributor, quotation.shard), (first.entry.account, first.entry.body.shard));
    assert_eq!(quotation.record, shard::record_id("Tell me.", LEGEND));
    assert!(quotation.before.ends_with("Tell me.\n") && quotation.after.starts_with(" storm, and"), "{quotation:?}");
    // A damaged index is made again.
    let path = folder.path().join("spans").join(format!("{}.spans", first.entry.body.shard));
    std::fs::write(&path, b"nothing").unwrap();
    assert_eq!(evidence.quotations(&store, vec![later, first], answer).await.unwrap(), found);
}

#[tokio::test]
async fn a_shard_that_is_not_here_is_said_and_empty_answers_repeat_nothing() {
    let folder = folder();
    let store = IrohBlobs::open(&folder.path().join("blobs")).await.unwrap();
    let evidence = Arc::new(Evidence::at(folder.path().join("spans")));
    let entry = contributed(&store, 1, 1, &[LEGEND]).await;
    let found = evidence.quotations(&store, vec![entry.clone()], String::new()).await.unwrap();
    assert_eq!((found.quotations.len(), found.answer_words), (0, 0));
    assert_eq!(evidence.quotations(&store, vec![], LEGEND.into()).await.unwrap().quotations, []);
    let mut absent = entry.clone();
    let there = entry.clone();
    absent.entry.body.shard = Hash([9; 32]);
    let found = evidence.quotations(&store, vec![absent, there], LEGEND.into()).await.unwrap();
    assert_eq!((found.quotations.len(), found.shards, found.skipped), (1, 1, 1));
}
