//! Cards of datanets between real nodes: edits made at once, a peer that comes later, kills, and a member who lies.

use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tributary_peer::home::Ticket;
use tributary_peer::net::control::{Control, ControlConfig, ControlEvent};
use tributary_peer::runtime::now_ms;
use tributary_peer::up::network_id;
use tributary_protocol::card::CardChange;
use tributary_protocol::envelope::{self, NetworkId, Signed};
use tributary_protocol::id::{AccountId, DatanetId, Hash, NodeId};
use tributary_protocol::limits::CARD_CHANGE_MAX_BYTES;
use tributary_protocol::message::Message;
use tributary_storage::card::{CardDocument, Writer};

use super::support::{NodeProcess, PATIENCE, folder, run, stderr};

const LOOK: Duration = Duration::from_millis(100);

fn ticket(node: &NodeProcess) -> String {
    node.get("/api/net/invite").unwrap()["ticket"].as_str().unwrap().to_owned()
}

fn account(node: &NodeProcess) -> Value {
    node.get("/api/status").unwrap()["account"].clone()
}

fn begin(node: &NodeProcess, members: &Value) -> String {
    let body = json!({"name": "letters", "licence": "CC0-1.0", "members": members});
    node.post("/api/datanets", &body).unwrap()["id"].as_str().unwrap().to_owned()
}

/// The card, once it satisfies `wanted`.
fn card(node: &NodeProcess, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let card = node.get(&format!("/api/datanets/{id}/card")).unwrap_or_default();
        if wanted(&card) {
            return card;
        }
        assert!(Instant::now() < deadline, "the card stays {card}: {}", node.log());
        std::thread::sleep(LOOK);
    }
}

fn edit(node: &NodeProcess, id: &str, body: &Value) -> Value {
    node.post(&format!("/api/datanets/{id}/card"), body).unwrap()
}

#[test]
fn edits_made_apart_reach_everybody_and_one_who_comes_later_and_outlive_a_kill() {
    let folder = folder();
    let owner = NodeProcess::start(&folder.path().join("owner"), &[]);
    let ticket = ticket(&owner);
    let join = ["--join", &ticket];
    let mut member = NodeProcess::start(&folder.path().join("member"), &join);
    let other = NodeProcess::start(&folder.path().join("other"), &join);
    let id = begin(&owner, &json!([account(&member)]));
    edit(&owner, &id, &json!({"title": "Letters", "description": "The harbour is grey.", "tags": ["post"]}));
    let first = card(&member, &id, |card| card["title"] == "Letters");
    // The member writes while nobody hears it, the owner meanwhile on top of the same card.
    member.kill();
    let mut alone = NodeProcess::start(&member.folder, &["--offline"]);
    assert_eq!(alone.get(&format!("/api/datanets/{id}/card")).unwrap(), first, "from its own journal");
    edit(&alone, &id, &json!({"description": "The harbour is grey and cold.", "tags": ["sea"], "untag": ["post"]}));
    alone.kill();
    edit(&owner, &id, &json!({"description": "The old harbour is grey.", "tags": ["sea", "old"], "languages": ["en"]}));
    member.restart();
    let merged = |card: &Value| {
        card["description"] == "The old harbour is grey and cold."
            && card["tags"] == json!(["old", "sea"])
            && card["languages"] == json!(["en"])
    };
    let seen = card(&owner, &id, merged);
    for node in [&member, &other] {
        assert_eq!(card(node, &id, merged), seen);
    }
    let later = NodeProcess::start(&folder.path().join("later"), &join);
    assert_eq!(card(&later, &id, merged), seen);
    assert_eq!(later.get(&format!("/api/datanets/{id}")).unwrap()["title"], "Letters");
    member.kill();
    member.restart();
    assert_eq!(member.get("/api/datanets").unwrap()[0]["title"], "Letters");
    assert_eq!(edit(&member, &id, &json!({"title": "More letters"}))["changed"], true, "it goes on where it was");
    card(&later, &id, |card| card["title"] == "More letters");
}

#[test]
fn who_may_not_edit_a_card_is_told_so_and_bounds_are_kept() {
    let folder = folder();
    let owner = NodeProcess::start(&folder.path().join("owner"), &[]);
    let ticket = ticket(&owner);
    let stranger = NodeProcess::start(&folder.path().join("stranger"), &["--join", &ticket]);
    let id = begin(&owner, &Value::Null);
    let route = format!("/api/datanets/{id}/card");
    edit(&owner, &id, &json!({"title": "Letters"}));
    let seen = card(&stranger, &id, |card| card["title"] == "Letters");
    let refused = stranger.post(&route, &json!({"title": "mine"})).unwrap_err();
    assert_eq!(refused.exit_code(), 2, "{refused}");
    assert!(refused.to_string().contains("may not edit"), "{refused}");
    for body in [json!({"title": "x".repeat(201)}), json!({"tags": ["x".repeat(65)]}), json!({"subtitle": "x"})] {
        assert!(owner.post(&route, &body).is_err(), "{body}");
    }
    assert_eq!(edit(&owner, &id, &json!({"title": "Letters"}))["changed"], false);
    assert_eq!(owner.get(&route).unwrap(), seen);
    let unknown = owner.get(&format!("/api/datanets/{}/card", "7".repeat(64))).unwrap_err();
    assert_eq!(unknown.exit_code(), 2, "{unknown}");
}

#[test]
fn a_card_is_shown_and_edited_from_the_command_line() {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), &["--offline"]);
    let id = begin(&node, &Value::Null);
    let on = |line: &[&str]| {
        let ended = run(&[&["--data-dir", node.folder.to_str().unwrap(), "data"], line].concat());
        assert!(ended.status.success(), "{line:?}: {}", stderr(&ended));
        (String::from_utf8(ended.stdout.clone()).unwrap(), stderr(&ended))
    };
    let line = ["card", &id[..8], "--title", "Letters", "--description", "From the sea.", "--tag", "b", "--tag", "a"];
    let (shown, note) = on(&[&line[..], &["--language", "en"]].concat());
    assert!(shown.contains("title      Letters\ntags       a, b\nlanguages  en\n\nFrom the sea.\n"), "{shown}");
    assert!(note.contains("the card is changed"), "{note}");
    on(&["card", "letters", "--untag", "a"]);
    let document: Value = serde_json::from_str(&on(&["card", "letters", "--json"]).0).unwrap();
    let wanted = json!({
        "id": id, "title": "Letters", "description": "From the sea.", "tags": ["b"], "languages": ["en"],
    });
    assert_eq!(document, wanted);
    let shown = on(&["show", "letters"]).0;
    assert!(shown.lines().any(|line| line.starts_with("title ") && line.ends_with(" Letters")), "{shown}");
    assert!(on(&["ls"]).0.contains("Letters"));
}

/// A member of the datanet with a machine that says what it likes.
struct Liar {
    key: SigningKey,
    control: Control,
    events: mpsc::Receiver<ControlEvent>,
    network: NetworkId,
    victim: NodeId,
    datanet: DatanetId,
    sequence: u64,
}

const LIAR_SEED: [u8; 32] = [66; 32];

impl Liar {
    async fn start(ticket: &str, victim: NodeId, datanet: DatanetId) -> Self {
        let ticket = Ticket::from_text(ticket).unwrap();
        let config = ControlConfig {
            bootstrap: ticket.bootstrap.clone(),
            ..ControlConfig::loopback(LIAR_SEED, &ticket.network.name)
        };
        let (control, mut events) = Control::start(config).await.unwrap();
        let connected = async {
            while !matches!(events.recv().await.unwrap(), ControlEvent::PeerConnected(node) if node == victim) {}
        };
        tokio::time::timeout(PATIENCE, connected).await.expect("a connection in time");
        let key = SigningKey::from_bytes(&LIAR_SEED);
        Self { key, control, events, network: network_id(&ticket.network), victim, datanet, sequence: now_ms() << 10 }
    }

    fn entry(&self, key: &SigningKey, sequence: u64, previous: Hash, change: Vec<u8>) -> Signed<CardChange> {
        Signed::new(self.network, key, CardChange { datanet: self.datanet, sequence, previous, change })
    }

    async fn say(&mut self, entry: Signed<CardChange>) {
        self.sequence += 1;
        let message = Message::CardChanges(vec![entry]);
        let bytes = envelope::seal(&self.key, self.network, self.sequence, now_ms(), message.kind(), message.to_body());
        self.control.send(self.victim, bytes).await.unwrap();
    }

    async fn banned(&mut self) {
        let victim = self.victim;
        let ended = async {
            while !matches!(self.events.recv().await.unwrap(), ControlEvent::PeerDisconnected(node) if node == victim) {
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("a ban in time");
    }
}

fn id_of<T: std::str::FromStr>(value: &Value) -> T {
    value.as_str().and_then(|text| text.parse().ok()).expect("an id")
}

#[test]
fn a_member_who_lies_changes_nothing_and_is_banned_after_four_lies() {
    let folder = folder();
    let owner = NodeProcess::start(&folder.path().join("owner"), &[]);
    let key = SigningKey::from_bytes(&LIAR_SEED);
    let liar_account = AccountId(key.verifying_key().to_bytes());
    let id = begin(&owner, &json!([liar_account]));
    let status = owner.get("/api/status").unwrap();
    let (victim, owner_account): (NodeId, AccountId) = (id_of(&status["node"]), id_of(&status["account"]));
    let ticket = ticket(&owner);
    let datanet: DatanetId = id.parse().unwrap();
    let mut document = CardDocument::new(2);
    let writer = |account| Writer { account, node: NodeId([7; 32]) };
    let good = document.edit(&writer(liar_account), |card| card.title = "Good".into()).unwrap().unwrap();
    let foreign = document.edit(&writer(owner_account), |card| card.title = "Forged".into()).unwrap().unwrap();
    let late = document.edit(&writer(liar_account), |card| card.title = "Late".into()).unwrap().unwrap();
    let seen = block_on_all(async {
        let mut liar = Liar::start(&ticket, victim, datanet).await;
        // What a member may do works, and a second time is nothing; nor is a change whose ground is missing a lie.
        let first = liar.entry(&key, 0, Hash::default(), good);
        let previous = first.id(liar.network);
        liar.say(first.clone()).await;
        let seen = tokio::task::block_in_place(|| card(&owner, &id, |card| card["title"] == "Good"));
        liar.say(first).await;
        liar.say(liar.entry(&key, 1, previous, late)).await;
        // Bytes that are no change; another's change under the own name; no editor at all; too large.
        liar.say(liar.entry(&key, 1, previous, b"no change at all".to_vec())).await;
        liar.say(liar.entry(&key, 1, previous, foreign)).await;
        liar.say(liar.entry(&SigningKey::from_bytes(&[9; 32]), 0, Hash::default(), b"x".to_vec())).await;
        liar.say(liar.entry(&key, 1, previous, vec![0; CARD_CHANGE_MAX_BYTES + 1])).await;
        liar.banned().await;
        liar.control.shutdown().await;
        seen
    });
    assert_eq!(owner.get(&format!("/api/datanets/{id}/card")).unwrap(), seen, "{}", owner.log());
    assert_eq!(edit(&owner, &id, &json!({"title": "Mine again"}))["title"], "Mine again");
}

fn block_on_all<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(work)
}
