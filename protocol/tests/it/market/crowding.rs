//! What one account announces keeps nothing of others out.

use ed25519_dalek::SigningKey;
use tributary_protocol::datanet::{Genesis, Policy, Schema};
use tributary_protocol::envelope::{self, NetworkId, Signed};
use tributary_protocol::id::{AccountId, Amount, DatanetId, Hash, NodeId};
use tributary_protocol::limits::{ACCOUNT_PART, DATANETS_MAX, TASKS_MAX};
use tributary_protocol::message::{Message, Release};
use tributary_protocol::node::Input;

use super::{ADAPTER, Net, address, key};

fn network() -> NetworkId {
    NetworkId::named("market")
}

/// What `by` gossips as its message of this number.
fn sealed(net: &Net, by: &SigningKey, number: u64, message: &Message) -> Vec<u8> {
    envelope::seal(by, network(), 1 + number, net.now_ms, message.kind(), message.to_body())
}

fn hash(number: u64) -> Hash {
    Hash::of(&number.to_le_bytes())
}

#[test]
fn the_releases_of_one_account_take_a_part_and_one_s_own_always_fits() {
    let mut net = Net::new(2, false);
    let junk = |number: u64| Release {
        name: "x".into(),
        adapter: hash(number),
        base: hash(1),
        datanet: DatanetId([4; 32]),
        head: hash(2),
        contributors: Vec::new(),
        notes: Vec::new(),
        index: hash(3),
        answer_fee: Amount(0),
        builder: address(0),
        node: NodeId([1; 32]),
        unchecked: 0,
        quality: None,
    };
    let crowd = |net: &mut Net, by: usize, numbers: std::ops::Range<u64>| {
        let by = key(by);
        for number in numbers {
            let message = Message::Release(Box::new(Signed::new(network(), &by, junk(number))));
            let bytes = sealed(net, &by, number, &message);
            for host in 0..2 {
                net.feed(host, Input::Gossip { id: number, bytes: bytes.clone() });
            }
        }
    };
    let part = u64::try_from(TASKS_MAX / ACCOUNT_PART).unwrap();
    crowd(&mut net, 60, 0..part + 5);
    assert_eq!(net.hosts[1].node.releases().count(), TASKS_MAX / ACCOUNT_PART);
    for by in 61..60 + ACCOUNT_PART {
        let first = u64::try_from(by).unwrap() << 16;
        crowd(&mut net, by, first..first + part);
    }
    assert_eq!(net.hosts[0].node.releases().count(), TASKS_MAX);
    net.release();
    assert!(net.hosts[0].node.release_of(&ADAPTER).is_some(), "its builder knows it");
}

#[test]
fn the_datanets_of_one_account_take_a_part() {
    let mut net = Net::new(1, false);
    let stranger = key(60);
    let account = AccountId(stranger.verifying_key().to_bytes());
    for number in 0..u64::try_from(DATANETS_MAX / ACCOUNT_PART).unwrap() + 5 {
        let genesis = Genesis {
            name: number.to_string(),
            owners: vec![account],
            licence: "CC0-1.0".into(),
            policy: Policy::Open,
            schema: Schema::Text,
            notaries: Vec::new(),
            created_ms: 0,
        };
        let message = Message::Genesis(Box::new(Signed::new(network(), &stranger, genesis)));
        let bytes = sealed(&net, &stranger, number, &message);
        net.feed(0, Input::Message { from: NodeId(account.0), bytes });
    }
    assert_eq!(net.hosts[0].node.datanets().count(), DATANETS_MAX / ACCOUNT_PART);
    let own = net.datanet();
    assert!(net.hosts[0].node.datanet(&own).is_some());
}
