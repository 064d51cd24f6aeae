//! `tributary answer`: answers this node asked for, and whether they hold.

mod explain;
mod verify;

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};
use tributary_protocol::id::{Hash, ReceiptId};
use tributary_protocol::receipt::{SignedReceipt, Work};

use super::failure::{FAILED, Failure, UNREACHABLE, VERIFICATION};
use super::output::{Context, Output};
use super::pick::{ANSWER, Kind};
use super::receipt::proof::JUDGE_PATIENCE;
use super::table::Table;
use super::{amount, ask, receipt, text};

/// How long going through a training backwards may take: several times as long as the training.
const UNROLLING_PATIENCE: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Subcommand)]
pub(crate) enum AnswerCommand {
    /// List what this node asked and was answered.
    Ls,
    /// Show an answer, its shares and what a check found.
    Show {
        /// The key of the question, or the beginning of it, as answer ls, ask --explain or ask --json gives it.
        key: String,
    },
    /// Tell who taught an answer, what they earn, how that is known, and what it repeats word for word.
    Explain {
        /// The key of the question or its receipt's id, or the beginning of it.
        key: String,
        /// Also tell which of their records helped most; the node goes through them twice, which can take minutes.
        #[arg(long)]
        records: bool,
        /// Tell it of records by going through the model's training backwards, in several times the training's time: after a
        /// run of the stable preset far nearer to what leaving one out would have done. Only for models that were trained for
        /// this node.
        #[arg(long, requires = "records")]
        exact: bool,
    },
    /// Compute the answer and everybody's weight again on this node, and say of each whether it is what the worker
    /// signed; check that the receipt holds, is for exactly this text, and what another peer found.
    Verify {
        /// The key of the question, or the beginning of it.
        key: String,
        /// How long to wait for another peer's check, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        wait_s: u64,
        /// Where something is unequal, write the proof there; it shows the question and the answer's tokens.
        #[arg(long, value_name = "FILE")]
        proof: Option<PathBuf>,
    },
}

pub(super) async fn run(context: &Context, command: AnswerCommand) -> Result<Output, Failure> {
    match command {
        AnswerCommand::Ls => Ok(list(&context.client.get("/api/asks").await?)),
        AnswerCommand::Show { key } => Ok(show(context.client.get(&route(&find(context, &key).await?)).await?)),
        AnswerCommand::Explain { key, records, exact } => {
            explained(context, &find(context, &key).await?, records.then_some(exact)).await
        }
        AnswerCommand::Verify { key, wait_s, proof } => {
            let key = find(context, &key).await?;
            verify::verify(context, &key, Duration::from_secs(wait_s), proof.as_deref()).await
        }
    }
}

/// The key of the question that `given` names: the question's, or its receipt's id, which is before the eyes of whoever has one.
async fn find(context: &Context, given: &str) -> Result<Hash, Failure> {
    let known = context.client.get("/api/asks").await?;
    let found = match given.parse::<Hash>() {
        Ok(whole) => match text::rows(&known).iter().find(|row| row["receipt"].as_str() == Some(given)) {
            Some(row) => row,
            None => return Ok(whole),
        },
        Err(_) if text::rows(&known).is_empty() => {
            let hint = "who asked can explain an answer; what you earned by others' is in tributary receipt ls, and each one's \
                        reasons in tributary receipt why ID";
            return Err(Failure::usage("nothing was asked here", hint));
        }
        Err(_) => {
            let begins = |row: &Value| text::field(&row["key"]).starts_with(&given.to_ascii_lowercase());
            let by_receipt = || Kind { id: "receipt", ..ANSWER }.find(&known, given).ok();
            match text::rows(&known).iter().any(begins) {
                true => ANSWER.find(&known, given)?,
                false => by_receipt().map_or_else(|| ANSWER.find(&known, given), Ok)?,
            }
        }
    };
    text::field(&found["key"]).parse().map_err(|error| Failure::new(FAILED, error, ""))
}

fn list(known: &Value) -> Output {
    let mut rows: Vec<&Value> = text::rows(known).iter().collect();
    // What is under way comes last, as the newest.
    rows.sort_by_key(|row| row["finished_ms"].as_u64().unwrap_or(u64::MAX));
    let mut table = Table::new(&["ANSWER", "QUESTION", "TEXT", "OPEN", "CHECK", "FINISHED"]);
    for row in &rows {
        let told = match (row["failure"].as_str(), row["text"].as_str()) {
            (Some(reason), _) => format!("! {}", text::line(reason)),
            (None, Some(answer)) => text::line(answer.trim()),
            (None, None) => "not there yet".into(),
        };
        table.row([
            text::short(&row["key"]),
            row["question"].as_str().map_or_else(|| "-".into(), |question| text::line(question.trim())),
            told,
            if row["price"].is_null() { "-".into() } else { amount::brief(text::amount(&row["price"])) },
            row["verdict"]["outcome"].as_str().map_or_else(|| "-".into(), text::line),
            row["finished_ms"].as_u64().map_or_else(|| "-".into(), text::ago),
        ]);
    }
    let is_there = |row: &&&Value| row["failure"].is_null() && row["text"].is_string();
    let newest = rows.iter().rev().find(is_there);
    let next = newest.map(|row| format!("tributary answer explain {}", text::short(&row["key"])));
    let document: Value = rows.iter().map(|row| (*row).clone()).collect();
    let ids = text::ids(&document, "key");
    let output = Output::new(document, ids, table.render());
    match next {
        Some(next) => output.next(next),
        None if rows.is_empty() => output.note("nothing was asked here").next("tributary ask \"…\""),
        None => output,
    }
}

fn route(key: &Hash) -> String {
    format!("/api/asks/{key}")
}

fn show(answer: Value) -> Output {
    let mut shown = text::printable(answer["text"].as_str().unwrap_or_default().trim_start());
    if !shown.is_empty() && !shown.ends_with('\n') {
        shown.push('\n');
    }
    let has_receipt = answer["receipt"].is_string();
    if has_receipt {
        shown.push_str(&ask::explain(&answer));
    }
    let ids = vec![text::field(&answer["key"])];
    let output = Output::new(answer.clone(), ids, shown);
    match (answer["failure"].as_str(), has_receipt) {
        (Some(reason), _) => output.note(format!("! there is no answer: {}", text::line(reason))),
        (None, false) => output.note("the answer is not there yet"),
        (None, true) => output
            .note(format!("✓ {} OPEN; {}", amount::exact(text::amount(&answer["price"])), looked_at(&answer)))
            .next(format!("tributary answer explain {}", text::short(&answer["key"]))),
    }
}

/// Who computed an answer again, and what they found.
fn looked_at(answer: &Value) -> String {
    match text::rows(&answer["auditors"]).len() {
        auditors if auditors > 0 && answer["verdict"].is_null() => {
            format!("computed again by {}", text::counted(u64::try_from(auditors).unwrap_or(u64::MAX), "auditor"))
        }
        _ => finding(&answer["verdict"]),
    }
}

fn finding(verdict: &Value) -> String {
    let (peer, detail) = (text::short(&verdict["verifier"]), text::field(&verdict["detail"]));
    match verdict["outcome"].as_str() {
        Some("confirmed") => format!("peer {peer} checked the computation and confirms it"),
        Some("refuted") => format!("peer {peer} checked the computation and refutes it: {detail}"),
        Some(_) => format!("peer {peer} could not check it: {detail}"),
        None => "no other peer has checked it".into(),
    }
}

/// The receipt of an answer, checked.
async fn signed(context: &Context, answer: &Value) -> Result<(ReceiptId, SignedReceipt), Failure> {
    if let Some(reason) = answer["failure"].as_str() {
        return Err(Failure::new(UNREACHABLE, format!("there is no answer: {}", text::line(reason)), "ask again"));
    }
    let Some(id) = answer["receipt"].as_str() else {
        return Err(Failure::usage("the answer is not there yet", "wait until it is, then try again"));
    };
    receipt::checked(context.client.get_text(&format!("/api/receipts/{id}")).await?.as_bytes())
}

/// Explains an answer; with its records where it is said whether exactly.
async fn explained(context: &Context, key: &Hash, with_records: Option<bool>) -> Result<Output, Failure> {
    let answer = context.client.get(&route(key)).await?;
    let (_, signed) = signed(context, &answer).await?;
    check(&answer, &signed)?;
    unrefuted(&answer)?;
    let evidence = context.client.get(&format!("{}/evidence", route(key))).await?;
    let records = match with_records {
        Some(exact) => {
            let (told, patience) = match exact {
                true => {
                    ("going through the model's training backwards; this takes longer than it did", UNROLLING_PATIENCE)
                }
                false => ("looking at the model's records; this can take minutes", JUDGE_PATIENCE),
            };
            context.say(told);
            let path = format!("{}/records?exact={exact}", route(key));
            context.client.post_within(&path, &json!({}), patience).await?
        }
        None => Value::Null,
    };
    let own = context.client.get("/api/status").await?["account"].take();
    Ok(explain::explain(&answer, &signed.receipt, &evidence, &records, &own))
}

/// What to do with what does not hold.
const HINT: &str = "do not rely on this answer";

/// Compares an answer with its receipt.
fn check(answer: &Value, signed: &SignedReceipt) -> Result<(), Failure> {
    let Work::Inference { answer: stated, .. } = &signed.receipt.work else {
        return Err(Failure::new(VERIFICATION, "the receipt is for something else than an answer", HINT));
    };
    let text = answer["text"].as_str().ok_or_else(|| {
        Failure::new(FAILED, "the node no longer has the answer's text", "tributary receipt verify checks its receipt")
    })?;
    if Hash::of(text.as_bytes()) != *stated {
        return Err(Failure::new(VERIFICATION, "the receipt was signed for another text", HINT));
    }
    Ok(())
}

/// An answer that another peer refuted is not explained.
fn unrefuted(answer: &Value) -> Result<(), Failure> {
    if answer["verdict"]["outcome"] == "refuted" {
        return Err(Failure::new(VERIFICATION, finding(&answer["verdict"]), HINT));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_under_way_and_one_that_failed_say_so() {
        let waiting = show(json!({"key": "ab", "text": null, "receipt": null, "failure": null}));
        assert!(waiting.notes[0].contains("not there yet"));
        let failed = show(json!({"key": "ab", "text": null, "receipt": null, "failure": "nobody serves it"}));
        assert!(failed.notes[0].contains("nobody serves it"));
    }

    #[test]
    fn answers_are_listed_with_what_became_of_them() {
        let shown = list(&json!([
            {"key": "cc".repeat(32)},
            {"key": "bb".repeat(32), "text": " Jarelle\n", "price": "1000000000000000000", "finished_ms": 5,
             "verdict": {"outcome": "confirmed"}},
            {"key": "aa".repeat(32), "failure": "nobody serves it", "finished_ms": 4},
        ]));
        let lines: Vec<&str> = shown.text.lines().collect();
        assert!(lines[1].contains("! nobody serves it") && lines[3].contains("not there yet"), "{lines:?}");
        assert!(lines[2].contains("Jarelle") && lines[2].contains("confirmed"), "{lines:?}");
        assert_eq!(shown.ids.len(), 3);
        assert!(list(&json!([])).notes[0].contains("nothing was asked"));
    }

    #[test]
    fn each_outcome_of_a_check_has_its_words() {
        let of = |outcome: &str| finding(&json!({"verifier": "abc", "outcome": outcome, "detail": "token 32"}));
        assert!(of("confirmed").contains("confirms"));
        assert!(of("refuted").contains("refutes it: token 32"));
        assert!(of("abstained").contains("could not check it: token 32"));
        assert!(finding(&Value::Null).contains("no other peer"));
        assert!(looked_at(&json!({"auditors": []})).contains("no other peer"));
        assert_eq!(looked_at(&json!({"auditors": ["ab", "cd"]})), "computed again by 2 auditors");
    }
}
