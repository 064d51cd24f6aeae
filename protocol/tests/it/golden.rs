//! Golden vectors: the bytes of every message, envelope and statement, which no change may move unnoticed.
//!
//! After a change that is meant: `TRIBUTARY_BLESS=1 cargo test -p tributary-protocol --test it golden`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use tributary_protocol::envelope::{self, ReplayGuard, seal};
use tributary_protocol::message::Message;
use tributary_protocol::wire;

use crate::samples;

const BLESS: &str = "TRIBUTARY_BLESS";

fn vectors() -> String {
    let mut text = String::new();
    for message in samples::messages() {
        let (kind, body) = (message.kind(), message.to_body());
        let name = Message::KINDS.iter().find(|(known, _)| *known == kind).expect("a known kind").1;
        let envelope = seal(&samples::key(99), samples::network(), 5, samples::NOW_MS, kind, body.clone());
        writeln!(text, "message {kind} {name} {}", hex::encode(body)).expect("strings take all");
        writeln!(text, "envelope {kind} {name} {}", hex::encode(envelope)).expect("strings take all");
    }
    for (name, kind, body, digest) in samples::statements() {
        writeln!(text, "statement {kind} {name} {} {digest}", hex::encode(body)).expect("strings take all");
    }
    writeln!(text, "receipt 0 SignedReceipt {}", hex::encode(wire::encode(&samples::signed_receipt())))
        .expect("strings take all");
    text
}

#[test]
fn bytes_are_as_they_were() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vectors.txt");
    let now = vectors();
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let before = std::fs::read_to_string(&path).unwrap();
    let changed: Vec<&str> = now
        .lines()
        .zip(before.lines())
        .filter(|(now, before)| now != before)
        .map(|(now, _)| now.rsplit_once(' ').unwrap().0)
        .collect();
    assert!(changed.is_empty() && now.lines().count() == before.lines().count(), "wire bytes changed: {changed:?}");
}

#[test]
fn every_kind_has_an_example() {
    let shown: BTreeSet<u16> = samples::messages().iter().map(Message::kind).collect();
    let kinds: BTreeSet<u16> = Message::KINDS.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(shown, kinds);
    let statements: BTreeSet<u16> = samples::statements().iter().map(|(_, kind, ..)| *kind).collect();
    assert_eq!(statements, (1..=15).collect::<BTreeSet<u16>>(), "a kind of statement is missing or used twice");
}

#[test]
fn golden_bytes_are_read_back() {
    let text = include_str!("../golden/vectors.txt");
    let mut guard = ReplayGuard::default();
    for line in text.lines().filter(|line| line.starts_with("envelope ")) {
        let bytes = hex::decode(line.rsplit_once(' ').unwrap().1).unwrap();
        let opened = envelope::open(&bytes, samples::network(), samples::NOW_MS, &mut guard).unwrap();
        let message = Message::from_body(opened.kind, &opened.body).unwrap();
        assert_eq!(message.to_body(), opened.body);
        guard = ReplayGuard::default();
    }
}
