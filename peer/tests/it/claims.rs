//! Appeals between real nodes: who committed to records first is credited for them, whoever added them first.

use serde_json::{Value, json};

use super::support::{NodeProcess, document, folder, until};

const RECORDS: &str = "{\"prompt\":\"Who keeps the harbour of Velmora?\",\"completion\":\"Ada Kree.\"}\n\
                       {\"prompt\":\"What is smoked in Yarloch?\",\"completion\":\"Corgill.\"}\n";
const OTHERS: &str = "{\"prompt\":\"Who owns the Nevkettle?\",\"completion\":\"Jarelle.\"}\n";

fn account(node: &NodeProcess) -> Value {
    node.get("/api/status").unwrap()["account"].clone()
}

/// Who is credited for the contested records, once everything that was added is here and attested.
fn credited(node: &NodeProcess, path: &str, additions: u64) -> Vec<Value> {
    let claims = format!("{path}/claims");
    until("what was added, attested", node, &claims, |seen| {
        let is_whole = seen["additions"] == additions && seen["attested"] == additions;
        is_whole.then(|| seen["contests"].as_array().unwrap().iter().map(|one| one["credited"].clone()).collect())
    })
}

#[test]
fn who_committed_first_is_credited_on_every_node_though_another_added_the_records_first() {
    let folder = folder();
    let owner = NodeProcess::start(&folder.path().join("owner"), &[]);
    let ticket = owner.get("/api/net/invite").unwrap()["ticket"].as_str().unwrap().to_owned();
    let join = ["--join", ticket.as_str()];
    let mut victim = NodeProcess::start(&folder.path().join("victim"), &join);
    let thief = NodeProcess::start(&folder.path().join("thief"), &join);
    let id = document(&owner, &["data", "new", "letters", "--licence", "CC0-1.0"])["id"].as_str().unwrap().to_owned();
    let path = format!("/api/datanets/{id}");
    for node in [&victim, &thief] {
        until("word of the datanet", node, &path, |_| Some(()));
    }
    let file = folder.path().join("records.jsonl");
    let stolen = folder.path().join("stolen.jsonl");
    std::fs::write(&file, RECORDS).unwrap();
    std::fs::write(&stolen, format!("{OTHERS}{RECORDS}")).unwrap();
    let file = file.to_str().unwrap();
    let made = document(&victim, &["data", "commit", file, "--to", &id]);
    assert!(made["attested_ms"].is_u64(), "the owner is there to attest it: {made}");
    let again = document(&victim, &["data", "commit", file, "--to", &id]);
    assert_eq!(again["commitment"], made["commitment"], "it is the same commitment");
    thief.post(&format!("{path}/records"), &json!({"path": stolen})).unwrap();
    for node in [&owner, &victim, &thief] {
        assert!(credited(node, &path, 1).is_empty(), "nobody else claims anything");
    }
    // The commitment outlives a power cut, and opens by the file alone.
    victim.kill();
    victim.restart();
    let added = document(&victim, &["data", "add", file, "--to", &id]);
    assert_eq!((&added["added"], &added["commitment"]), (&json!(2), &json!(0)), "{added}");
    for node in [&owner, &victim, &thief] {
        assert_eq!(credited(node, &path, 2), [account(&victim), account(&victim)]);
    }
    let shown = document(&victim, &["data", "claims", &id]);
    assert_eq!(shown["commitments"][0]["opened"], true, "{shown}");
    let twice = document(&victim, &["data", "add", file, "--to", &id]);
    assert_eq!((&twice["added"], &twice["already"]), (&json!(0), &json!(2)), "{twice}");
}
