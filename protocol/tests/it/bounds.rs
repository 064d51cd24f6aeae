//! The largest releases and receipts fit an envelope, and releases a gossip message, so that no datanet is too large to be
//! paid for.

use tributary_protocol::attribution::{Share, commons_weight};
use tributary_protocol::economy;
use tributary_protocol::envelope::{self, ReplayGuard};
use tributary_protocol::id::{AccountId, Amount, ChainAddress, Hash};
use tributary_protocol::limits::{CONTRIBUTORS_MAX, GOSSIP_MAX_BYTES, LEFT_OUT_MAX, NOTE_LOGS_MAX, RECEIPT_SHARES_MAX};
use tributary_protocol::message::{Contributor, Message, Together};
use tributary_protocol::receipt::ReceiptOffer;

use crate::samples;

/// Accounts in their order, whose bytes don't repeat.
fn accounts(count: u32) -> Vec<AccountId> {
    let mut accounts: Vec<_> =
        (0..count).map(|number| AccountId(*blake3::hash(&number.to_le_bytes()).as_bytes())).collect();
    accounts.sort_unstable();
    accounts
}

fn payout(account: &AccountId) -> ChainAddress {
    ChainAddress(*account.0.first_chunk().expect("20 of 32 bytes"))
}

fn sealed(message: &Message) -> Vec<u8> {
    envelope::seal(&samples::key(1), samples::network(), 1, 1, message.kind(), message.to_body())
}

/// What another node reads of a message.
fn arrived(message: &Message) -> Message {
    let opened = envelope::open(&sealed(message), samples::network(), 1, &mut ReplayGuard::default()).expect("it fits");
    Message::from_body(opened.kind, &opened.body).expect("it is within bounds")
}

#[test]
fn a_receipt_that_pays_as_many_as_it_may_fits_an_envelope() {
    let mut receipt = samples::signed_receipt().receipt;
    let accounts = accounts(u32::try_from(RECEIPT_SHARES_MAX).unwrap());
    receipt.shares =
        accounts.iter().map(|account| Share { account: *account, payout: payout(account), weight: 3_000 }).collect();
    receipt.commons = commons_weight(&receipt.shares).unwrap();
    receipt.price = Amount(u128::from(u64::MAX));
    receipt.payments =
        economy::split(receipt.price, receipt.worker_part, receipt.policy, &receipt.to, &receipt.shares).unwrap();
    let offer = ReceiptOffer::new(receipt, &samples::key(62));
    let signed = offer.clone().countersign(&samples::key(61));
    assert_eq!(signed.verify_offline(), Ok(()));
    for message in [Message::ReceiptOffered(Box::new(offer)), Message::Receipt(Box::new(signed))] {
        assert_eq!(arrived(&message), message);
    }
}

#[test]
fn a_release_of_as_many_contributors_as_a_datanet_has_is_gossiped() {
    let mut release = samples::release();
    let (clusters, rest) = (CONTRIBUTORS_MAX / LEFT_OUT_MAX, CONTRIBUTORS_MAX % LEFT_OUT_MAX);
    let contributor = |(number, account): (usize, &AccountId)| {
        let first = number / LEFT_OUT_MAX * LEFT_OUT_MAX;
        let without = Hash(*blake3::hash(&first.to_le_bytes()).as_bytes());
        let together = Together { first: u32::try_from(first).unwrap(), without };
        Contributor {
            account: *account,
            payout: payout(account),
            leave_out: Hash(account.0),
            together: (number < clusters * LEFT_OUT_MAX).then_some(together),
            entries: u64::MAX,
            estimated: false,
        }
    };
    let accounts = accounts(u32::try_from(CONTRIBUTORS_MAX).unwrap());
    release.contributors = accounts.iter().enumerate().map(contributor).collect();
    release.notes = accounts[..NOTE_LOGS_MAX].iter().map(|account| (*account, u64::MAX)).collect();
    assert_eq!(release.clusters().len(), clusters);
    assert_eq!(release.contributors.iter().filter(|one| one.together.is_none()).count(), rest);
    let message = Message::Release(Box::new(samples::signed(1, release)));
    assert_eq!(arrived(&message), message);
    assert!(sealed(&message).len() <= GOSSIP_MAX_BYTES, "{} bytes", sealed(&message).len());
}
