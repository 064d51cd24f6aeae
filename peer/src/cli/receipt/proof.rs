//! Proofs of falsification on the command line: judged, listed, written as files.
//!
//! Invariant: each of the three answers of a judge has its own words and its own exit code.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tributary_protocol::limits::PROOF_MAX_BYTES;
use tributary_protocol::proof::{Judgement, MAGIC, Need, Proof};

use crate::cli::failure::{FAILED, Failure, UNJUDGED, VERIFICATION};
use crate::cli::output::{Context, Output};
use crate::cli::pick::PROOF;
use crate::cli::table::Table;
use crate::cli::text;
use crate::client::ClientError;
use crate::http::judgement_json;
use crate::work::judge::with_record;

/// The largest file of a proof.
pub(super) const FILE_MAX_BYTES: u64 = PROOF_MAX_BYTES as u64;

/// How long a node may take to fetch a base and compute an answer again.
pub(in crate::cli) const JUDGE_PATIENCE: Duration = Duration::from_secs(900);

pub(super) fn is_proof(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// Judges the bytes of a proof's file: by themselves where that is enough, else on the node of this folder.
pub(super) async fn judge(context: &Context, bytes: &[u8]) -> Result<Output, Failure> {
    let proof = Proof::from_bytes(bytes).map_err(|error| {
        Failure::new(VERIFICATION, error, "give the file as tributary receipt proof or answer verify --proof wrote it")
    })?;
    let judgement = match proof.judge() {
        Judgement::Needs(Need::Record) => proof.conclude(&with_record(&proof)),
        judgement => judgement,
    };
    if !matches!(judgement, Judgement::Needs(_)) {
        return Ok(shown(judgement_json(&proof, &judgement)));
    }
    match context.client.post_file("/api/proofs/judge", bytes.to_vec(), JUDGE_PATIENCE).await {
        Ok(document) => Ok(shown(document)),
        Err(ClientError::NodeDown { .. }) => {
            let reason = "it has to be computed again, and no node runs here; tributary up starts one";
            Ok(shown(judgement_json(&proof, &Judgement::Unknown(reason.into()))))
        }
        Err(error) => Err(error.into()),
    }
}

/// What is said to be false, for people.
fn claim(kind: &Value) -> &'static str {
    match kind.as_str() {
        Some("sum") => "the sums or shares of a receipt",
        Some("terms") => "what a receipt says was asked for",
        Some("weight") => "the attribution weights of an answer",
        Some("answer") => "an answer",
        Some("logprobs") => "the probabilities of an answer's tokens",
        Some("row") => "a row of a released attribution index",
        Some("span") => "a span index",
        _ => "something",
    }
}

/// What a judge said, with the exit code that belongs to it.
fn shown(document: Value) -> Output {
    let detail = text::field(&document["detail"]);
    let (head, code) = match document["outcome"].as_str() {
        Some("proven") => (format!("proven: {detail}"), 0),
        Some("fails") => (format!("the proof does not hold: {detail}"), VERIFICATION),
        _ => (format!("cannot be judged here: {detail}"), UNJUDGED),
    };
    let fields = text::fields(&[
        ("false", claim(&document["kind"]).to_owned()),
        ("signed by", text::field(&document["accused"])),
        ("about", text::field(&document["subject"])),
    ]);
    let ids = vec![text::field(&document["id"])];
    Output::new(document, ids, format!("{head}\n{fields}")).ending(code)
}

pub(super) fn list(known: &Value) -> Output {
    let mut table = Table::new(&["PROOF", "FALSE", "SIGNED BY", "ABOUT", "FOUND BY"]);
    for row in text::rows(known) {
        table.row([
            text::short(&row["id"]),
            row["kind"].as_str().map_or_else(|| "?".into(), text::line),
            text::short(&row["accused"]),
            text::short(&row["subject"]),
            text::short(&row["found_by"]),
        ]);
    }
    let ids = text::ids(known, "id");
    let next = ids.last().map(|id| format!("tributary receipt proof {id} --out FILE"));
    let output = Output::new(known.clone(), ids, table.render());
    match next {
        Some(next) => output.next(next),
        None => output.note("nothing false was found"),
    }
}

pub(super) async fn save(context: &Context, given: &str, out: &Path) -> Result<Output, Failure> {
    let known = context.client.get("/api/proofs").await?;
    let id = text::field(&PROOF.find(&known, given)?["id"]);
    let bytes = context.client.get_file(&format!("/api/proofs/{id}")).await?;
    write(out, &bytes)?;
    let document = json!({"proof": id, "file": out.display().to_string()});
    let next = format!("tributary receipt verify {}", out.display());
    let note = format!("✓ the proof is in {}; it shows the question and the answer's tokens", out.display());
    Ok(Output::new(document, vec![id], String::new()).note(note).next(next))
}

/// Writes a proof's file.
pub(in crate::cli) fn write(out: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(out, bytes)
        .map_err(|error| Failure::new(FAILED, format!("{}: {error}", out.display()), "give a file that can be written"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_judgement_has_its_words_and_its_code() {
        let said = |outcome: &str| {
            shown(json!({"id": "ab", "outcome": outcome, "detail": "two of three", "kind": "weight", "accused": "cd"}))
        };
        assert_eq!((said("proven").code, said("fails").code, said("unknown").code), (0, VERIFICATION, UNJUDGED));
        assert!(said("proven").text.starts_with("proven: two of three\n"));
        assert!(said("fails").text.starts_with("the proof does not hold: "));
        assert!(said("unknown").text.starts_with("cannot be judged here: "));
        assert!(said("proven").text.contains("attribution weights"));
    }

    #[test]
    fn proofs_are_listed_also_where_only_their_name_is_known() {
        let row = json!({"id": "ab".repeat(32), "kind": null, "accused": "cd".repeat(32), "subject": "ef".repeat(32)});
        let shown = list(&json!([row]));
        assert!(shown.text.contains("cdcd") && shown.next.unwrap().contains("receipt proof abab"));
        assert!(list(&json!([])).notes[0].contains("nothing false"));
    }
}
