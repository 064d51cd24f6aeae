//! Claims between nodes: a commitment spreads, is attested and beats whoever publishes the records first.

use tributary_protocol::datanet::{Date, Dated, Genesis, Policy, Schema};
use tributary_protocol::envelope::{NetworkId, Signed};
use tributary_protocol::id::{DatanetId, Hash};
use tributary_protocol::node::{Command, Event, Fact, Input, NewShard, Node, Output};

use super::{Net, config, key};

const NOTARY: usize = 0;
const VICTIM: usize = 1;
const THIEF: usize = 2;
const RECORDS: Hash = Hash([9; 32]);

/// A datanet of which the first host is owner and notary.
fn notarised(net: &mut Net) -> DatanetId {
    let owner = net.hosts[NOTARY].node.account();
    let genesis = Genesis {
        name: "letters".into(),
        owners: vec![owner],
        licence: "CC0-1.0".into(),
        policy: Policy::Open,
        schema: Schema::PromptCompletion,
        notaries: vec![owner],
        created_ms: net.now_ms,
    };
    let id = DatanetId(
        Signed::new(NetworkId::named("market"), &key(NOTARY + 100), genesis.clone()).id(NetworkId::named("market")).0,
    );
    net.command(NOTARY, Command::CreateDatanet(genesis));
    net.pass(6);
    id
}

fn contribute(net: &mut Net, host: usize, datanet: DatanetId, shard: u8) {
    let shard = NewShard { datanet, shard: Hash([shard; 32]), bytes: 700, records: 8, records_root: RECORDS };
    net.command(host, Command::Contribute(shard));
}

fn version(node: &Node, id: &DatanetId) -> Vec<Dated> {
    let datanet = node.datanet(id).expect("everybody has heard of it");
    datanet.version(&datanet.head()).expect("the present version is here")
}

/// The date of a host's entry as every node has it.
fn proven(net: &Net, id: &DatanetId, host: usize) -> Option<Date> {
    let account = net.hosts[host].node.account();
    let date = |node: &Node| {
        let all = version(node, id);
        all.iter().find(|dated| dated.entry.account == account).expect("it was spread").proven(&RECORDS)
    };
    let dates: Vec<Option<Date>> = net.hosts.iter().map(|host| date(&host.node)).collect();
    assert!(dates.windows(2).all(|pair| pair[0] == pair[1]), "{dates:?}");
    dates[0]
}

#[test]
fn a_commitment_beats_who_publishes_the_records_first_on_every_node_and_after_a_restart() {
    let mut net = Net::new(4, false);
    let id = notarised(&mut net);
    let commit = Command::Commit { datanet: id, records_root: RECORDS };
    net.command(VICTIM, commit.clone());
    net.command(VICTIM, commit);
    net.pass(10);
    let account = net.hosts[VICTIM].node.account();
    let opening = net.hosts[VICTIM].node.opening(&id, &RECORDS).expect("it committed");
    assert_eq!(net.hosts[THIEF].node.opening(&id, &RECORDS), None);
    for host in &net.hosts {
        let datanet = host.node.datanet(&id).expect("it was spread");
        assert_eq!(datanet.note_position(&account).0, 1, "wanted twice, said once");
        assert!(datanet.commitment_date(&account, opening.note).is_some());
    }
    contribute(&mut net, THIEF, id, 2);
    net.pass(10);
    contribute(&mut net, VICTIM, id, 1);
    net.pass(10);
    let (victim, thief) = (proven(&net, &id, VICTIM), proven(&net, &id, THIEF));
    assert!(victim.is_some() && thief.is_some() && victim < thief, "{victim:?} {thief:?}");
    for (place, host) in net.hosts.iter().enumerate() {
        let again = Node::new(net.now_ms, config(place, place > 0), host.facts.clone());
        assert_eq!(version(&again, &id), version(&host.node, &id));
        assert_eq!(again.opening(&id, &RECORDS), host.node.opening(&id, &RECORDS));
    }
}

#[test]
fn a_notary_says_each_thing_once_and_durably_before_anybody_hears_it() {
    let mut net = Net::new(3, false);
    let id = notarised(&mut net);
    contribute(&mut net, VICTIM, id, 1);
    net.now_ms += 1_000;
    let outputs = net.hosts[NOTARY].node.handle(net.now_ms, Input::Tick);
    let is_noted = |output: &Output| matches!(output, Output::Persist(facts) if facts.iter().any(|fact| matches!(fact, Fact::Noted(_))));
    let moved = |output: &Output| matches!(output, Output::Event(Event::HeadMoved(head)) if !head.notes.is_empty());
    let noted = outputs.iter().position(is_noted).expect("it attests");
    assert!(outputs.iter().position(moved).is_some_and(|said| noted < said));
    let published = outputs.iter().position(|output| matches!(output, Output::Publish { .. }));
    assert!(published.is_some_and(|said| noted < said));
    for output in outputs {
        net.perform(NOTARY, output);
    }
    net.pass(20);
    let notary = net.hosts[NOTARY].node.account();
    for host in &net.hosts {
        assert_eq!(host.node.datanet(&id).expect("it was spread").note_position(&notary).0, 1);
    }
}
