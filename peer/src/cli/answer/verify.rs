//! `tributary answer verify`: an answer's weights computed again on this node, beside what another peer found.
//!
//! Invariant: "equal" and "unequal" are said only of what was computed here in the receipt's own class; what could not be
//! is said so, and ends well only where another peer confirms it.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tributary_protocol::id::Hash;

use super::{check, finding, route, signed};
use crate::cli::failure::{FAILED, Failure, UNJUDGED, VERIFICATION};
use crate::cli::output::{Context, Output};
use crate::cli::receipt::proof;
use crate::cli::table::Table;
use crate::cli::text;
use crate::client::ClientError;

/// How often a check is asked for.
const POLL: Duration = Duration::from_millis(500);

pub(super) async fn verify(
    context: &Context,
    key: &Hash,
    wait: Duration,
    proof: Option<&Path>,
) -> Result<Output, Failure> {
    let deadline = tokio::time::Instant::now() + wait;
    let mut answer = context.client.get(&route(key)).await?;
    while answer["verdict"].is_null() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
        answer = context.client.get(&route(key)).await?;
    }
    let (id, signed) = signed(context, &answer).await?;
    check(&answer, &signed)?;
    let mut again = recomputed(context, key).await?;
    let written = write(proof, &again["proof"])?;
    // The file is no reading matter.
    if let Some(made) = again["proof"].as_object_mut() {
        made.remove("file");
    }
    let output = shown(&id.to_string(), &answer["verdict"], &again);
    Ok(match (written, proof) {
        (Some(file), _) => output
            .note(format!("✓ the proof is in {}; it shows the question and the answer's tokens", file.display()))
            .next(format!("tributary receipt verify {}", file.display())),
        (None, Some(_)) => output.note("nothing was found unequal here, so no proof was written"),
        (None, None) => output.next(format!("tributary receipt why {}", id.short())),
    })
}

/// What the node says after it computed the answer again; an answer too old for that says so.
async fn recomputed(context: &Context, key: &Hash) -> Result<Value, Failure> {
    let path = format!("{}/verify", route(key));
    match context.client.post_within(&path, &json!({}), proof::JUDGE_PATIENCE).await {
        Ok(again) => Ok(again),
        Err(ClientError::Refused { code, message, .. }) if code == "not_found" => {
            Ok(json!({"outcome": "unknown", "detail": message}))
        }
        Err(error) => Err(error.into()),
    }
}

/// Writes the proof, if there is one and it is wanted.
fn write<'path>(out: Option<&'path Path>, made: &Value) -> Result<Option<&'path Path>, Failure> {
    let (Some(out), Some(file)) = (out, made["file"].as_str()) else { return Ok(None) };
    let bytes = hex::decode(file).map_err(|error| Failure::new(FAILED, error, "look at the node's log"))?;
    proof::write(out, &bytes)?;
    Ok(Some(out))
}

/// What was computed here and what another peer found, with the exit code of both together.
fn shown(receipt: &str, verdict: &Value, again: &Value) -> Output {
    let detail = text::field(&again["detail"]);
    let here = match again["outcome"].as_str() {
        Some("equal") => format!("equal: text, fingerprints and weights, in class {}", text::field(&again["class"])),
        Some("unequal") => format!("unequal: {detail}"),
        _ => format!("cannot be computed here: {detail}"),
    };
    let code = match (again["outcome"].as_str(), verdict["outcome"].as_str()) {
        (Some("unequal"), _) => VERIFICATION,
        // Of two that contradict each other, this machine does not say who is right.
        (Some("equal"), Some("refuted")) => UNJUDGED,
        (Some("equal"), _) | (_, Some("confirmed")) => 0,
        (_, Some("refuted")) => VERIFICATION,
        _ => UNJUDGED,
    };
    let mut pairs = vec![
        ("receipt", "both signatures, the shares and the payments hold".into()),
        ("text", "is the text the receipt was signed for".into()),
        ("here", here),
        ("check", finding(verdict)),
    ];
    pairs.extend(text::rows(&again["audits"]).iter().map(|audit| ("audit", audited(audit))));
    let is_false_audit = text::rows(&again["audits"]).iter().any(|audit| audit["outcome"] == "unequal");
    let code = if is_false_audit { VERIFICATION } else { code };
    let fields = text::fields(&pairs);
    let document = json!({
        "valid": code == 0, "receipt": receipt, "text": true, "verdict": verdict, "recomputed": again,
    });
    Output::new(document, vec![receipt.to_owned()], format!("{fields}{}", weights(again))).ending(code)
}

/// What an auditor found for settlement, held against what was computed here.
fn audited(audit: &Value) -> String {
    let auditor = text::short(&audit["auditor"]);
    match audit["outcome"].as_str() {
        Some("equal") => format!("by {auditor}: equal, as the adapters trained without each give it here"),
        Some("unequal") => format!("by {auditor}: unequal, the adapters trained without each give other shares"),
        _ => format!("by {auditor}: cannot be computed here: {}", text::field(&audit["detail"])),
    }
}

/// Each contributor's weight as the worker signed it and as it was computed here.
fn weights(again: &Value) -> String {
    let mut table = Table::new(&["CONTRIBUTOR", "SIGNED", "COMPUTED", ""]);
    let percent = |weight: &Value| weight.as_u64().map_or_else(|| "-".into(), text::percent);
    let judged = |one: &Value, other: &Value| match other.is_null() {
        true => String::new(),
        false if one == other => "equal".into(),
        false => "unequal".into(),
    };
    let rows = text::rows(&again["contributors"]);
    for row in rows {
        let (told, computed) = (&row["weight"], &row["recomputed_weight"]);
        table.row([text::short(&row["account"]), percent(told), percent(computed), judged(told, computed)]);
    }
    if !rows.is_empty() {
        let (told, computed) = (&again["commons"], &again["recomputed_commons"]);
        table.row(["the commons".into(), percent(told), percent(computed), judged(told, computed)]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(outcome: &str, computed: u32) -> Value {
        json!({
            "outcome": outcome, "detail": "the attribution weights are others", "class": "test", "commons": 100_000,
            "recomputed_commons": 1_000_000 - computed,
            "contributors": [{"account": "ab".repeat(32), "weight": 900_000, "recomputed_weight": computed}],
        })
    }

    #[test]
    fn every_weight_is_shown_beside_the_one_that_was_computed() {
        let equal = shown("id", &Value::Null, &again("equal", 900_000));
        assert!(equal.text.contains("in class test") && !equal.text.contains("unequal"), "{}", equal.text);
        let unequal = shown("id", &Value::Null, &again("unequal", 300_000));
        let row = unequal.text.lines().find(|line| line.starts_with("abab")).unwrap();
        assert!(row.contains("90.0 %") && row.contains("30.0 %") && row.ends_with("unequal"), "{row}");
        assert!(unequal.text.contains("unequal: the attribution weights are others"));
        assert_eq!(unequal.document["recomputed"]["commons"], 100_000);
    }

    #[test]
    fn a_false_audit_is_shown_and_ends_like_a_false_answer() {
        let audited = |outcome: &str| {
            let mut again = again("equal", 900_000);
            again["audits"] = json!([{"auditor": "cd".repeat(32), "outcome": outcome, "detail": "no base"}]);
            shown("id", &Value::Null, &again)
        };
        assert_eq!((audited("equal").code, audited("unequal").code, audited("unknown").code), (0, VERIFICATION, 0));
        assert!(audited("unequal").text.contains("by cdcdcdcdcd: unequal"), "{}", audited("unequal").text);
    }

    #[test]
    fn the_exit_code_tells_equal_unequal_and_neither_apart() {
        let verdict = |outcome: &str| json!({"outcome": outcome, "verifier": "ab", "detail": ""});
        let code = |here: &str, check: &Value| shown("id", check, &again(here, 1)).code;
        assert_eq!((code("equal", &Value::Null), code("equal", &verdict("confirmed"))), (0, 0));
        assert_eq!(
            (code("unequal", &Value::Null), code("unequal", &verdict("confirmed"))),
            (VERIFICATION, VERIFICATION)
        );
        assert_eq!(code("unknown", &verdict("refuted")), VERIFICATION);
        assert_eq!((code("unknown", &Value::Null), code("unknown", &verdict("abstained"))), (UNJUDGED, UNJUDGED));
        assert_eq!((code("unknown", &verdict("confirmed")), code("equal", &verdict("refuted"))), (0, UNJUDGED));
    }
}
