//! `tributary data commit` and `tributary data claims`: who was first, and what proves it.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::output::{Context, Output};
use super::super::pick::DATANET;
use super::super::table::Table;
use super::super::text;
use super::{destination, located};

/// How long a commitment is waited for to be attested: notaries that are there take a second or two.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often it is looked for.
const POLL: Duration = Duration::from_millis(500);

pub(super) async fn commit(context: &Context, file: &Path, to: Option<&str>) -> Result<Output, Failure> {
    context.no_preview("data commit")?;
    let path = located(file)?;
    let known = context.client.get("/api/datanets").await?;
    let datanet = destination(&known, to)?;
    let route = format!("/api/datanets/{}/commitments", text::field(&datanet["id"]));
    let mut made = context.client.post(&route, &json!({"path": path})).await?;
    let deadline = Instant::now() + PATIENCE;
    while made["attested_ms"].is_null() && Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
        let list = context.client.get(&route).await?;
        if let Some(own) = text::rows(&list).iter().find(|own| own["note"] == made["note"]) {
            made["attested_ms"] = own["attested_ms"].clone();
        }
    }
    Ok(committed(made, &text::short(&datanet["id"]), &path.display().to_string()))
}

fn committed(made: Value, datanet: &str, file: &str) -> Output {
    let id = text::field(&made["commitment"]);
    let is_attested = made["attested_ms"].is_u64();
    let records = text::counted(text::number(&made["records"]), "record");
    let output = Output::new(made, vec![id.clone()], format!("{id}\n"));
    let output =
        output.note(format!("✓ committed to {records}; keep the file as it is: only its very records open this"));
    if is_attested {
        let add = format!("tributary data add {} --to {datanet}", text::printable(file));
        return output.note("✓ a majority of the datanet's notaries has attested it: you can show them now").next(add);
    }
    output
        .note("! no majority of the datanet's notaries has attested it yet, so it proves nothing yet")
        .note(format!("  keep the records back until tributary data claims {datanet} says that it is attested"))
}

pub(super) async fn run(context: &Context, datanet: &str) -> Result<Output, Failure> {
    let known = context.client.get("/api/datanets").await?;
    let id = text::field(&DATANET.find(&known, datanet)?["id"]);
    Ok(show(context.client.get(&format!("/api/datanets/{id}/claims")).await?))
}

/// How much of a datanet is attested, and by how many it must be.
pub(super) fn attested(row: &Value) -> String {
    format!(
        "{} of {}, by {} of {}",
        text::grouped(text::number(&row["attested"])),
        text::counted(text::number(&row["additions"]), "addition"),
        text::number(&row["quorum"]),
        match text::rows(&row["notaries"]).len() {
            1 => "1 notary".to_owned(),
            count => format!("{count} notaries"),
        },
    )
}

fn show(found: Value) -> Output {
    let contests = text::rows(&found["contests"]);
    let mut table = Table::wrapping(&["CREDITED", "PROVEN", "CLAIMED BY", "PROVEN", "RECORD"]);
    for contest in contests {
        let others = text::rows(&contest["claims"]).iter().filter(|claim| claim["account"] != contest["credited"]);
        for other in others {
            table.row([
                text::short(&contest["credited"]),
                since(credited(contest)),
                text::short(&other["account"]),
                since(other),
                text::line(&said(&contest["record"])),
            ]);
        }
    }
    let ids = contests.iter().map(|contest| text::field(&contest["record"]["id"])).collect();
    let count = text::number(&found["count"]);
    let hidden = count.saturating_sub(u64::try_from(contests.len()).unwrap_or(u64::MAX));
    let mut output = Output::new(found.clone(), ids, table.render());
    output = match (count, hidden) {
        (0, _) => output.note("no record is claimed by more than one account"),
        (_, 0) => output,
        _ => output.note(format!("… and {} more", text::grouped(hidden))),
    };
    output = output.note(format!("attested: {}", attested(&found)));
    let commitments = text::rows(&found["commitments"]).iter().map(commitment);
    commitments.fold(output, Output::note)
}

/// The claim of who is credited; nothing where a near copy's original is another's.
fn credited(contest: &Value) -> &Value {
    let mut claims = text::rows(&contest["claims"]).iter();
    claims.find(|claim| claim["account"] == contest["credited"]).unwrap_or(&Value::Null)
}

fn since(claim: &Value) -> String {
    claim["proven_ms"].as_u64().map_or_else(|| "no".to_owned(), text::ago)
}

fn commitment(own: &Value) -> String {
    let opened = if own["opened"] == true { "its records are added" } else { "its records are not added yet" };
    let attested = match own["attested_ms"].as_u64() {
        Some(when_ms) => format!("attested {}", text::ago(when_ms)),
        None => "not attested yet".to_owned(),
    };
    format!("your commitment {}: {attested}; {opened}", text::short(&own["commitment"]))
}

fn said(record: &Value) -> String {
    format!("{} {}", text::field(&record["prompt"]), text::field(&record["completion"])).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{committed, show};

    #[test]
    fn a_contested_record_names_who_is_credited_by_what_proof() {
        let (victim, thief) = ("c".repeat(64), "f".repeat(64));
        let found = json!({
            "notaries": ["a", "b", "c"], "quorum": 2, "additions": 3, "attested": 2, "count": 2,
            "contests": [{"record": {"id": "1", "prompt": "Who built it?\n", "completion": " Ada"}, "credited": victim, "claims": [
                {"account": victim, "proven_ms": 5, "claimed_ms": 900}, {"account": thief, "proven_ms": null, "claimed_ms": 1},
            ]}],
            "commitments": [{"commitment": "d".repeat(64), "attested_ms": 5, "opened": true}],
        });
        let output = show(found);
        for part in ["cccccccccc", "ffffffffff", "no", "Who built it?"] {
            assert!(output.text.contains(part), "{}", output.text);
        }
        assert_eq!(output.notes[0], "… and 1 more");
        assert_eq!(output.notes[1], "attested: 2 of 3 additions, by 2 of 3 notaries");
        assert!(output.notes[2].starts_with("your commitment dddddddddd: attested "), "{:?}", output.notes);
    }

    #[test]
    fn who_committed_is_told_whether_it_proves_anything_yet() {
        let made = |attested_ms| json!({"commitment": "ab", "records": 2, "attested_ms": attested_ms});
        let (proven, bare) = (committed(made(json!(7)), "d", "f.jsonl"), committed(made(json!(null)), "d", "f.jsonl"));
        assert!(proven.notes[1].starts_with("✓ a majority"), "{:?}", proven.notes);
        assert!(bare.notes[1].starts_with("! no majority"), "{:?}", bare.notes);
    }
}
