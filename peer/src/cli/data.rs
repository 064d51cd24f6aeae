//! `tributary data`: datanets and the records in them.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};
use tributary_protocol::id::AccountId;
use tributary_storage::ingest::{self, IngestError, IngestLimits, Refusal};

use super::failure::{FAILED, Failure};
use super::output::{Context, Output};
use super::pick::DATANET;
use super::table::Table;
use super::text;

mod card;
mod claims;
mod doubts;
mod repeats;

use card::CardEdit;
use doubts::DoubtsArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Begin a datanet that others can add records to.
    New {
        /// Its name.
        name: String,
        /// The licence of its records, an SPDX expression such as CC-BY-4.0.
        #[arg(long, alias = "license", value_name = "SPDX")]
        licence: String,
        /// An account that may add records; repeat it for more. Without any, everybody may.
        #[arg(long, value_name = "ACCOUNT")]
        member: Vec<AccountId>,
        /// An account that attests what it sees added and when, so that nobody can pass off as older what is not; repeat it
        /// for more, of which a majority counts. Without any, this account alone does.
        #[arg(long, value_name = "ACCOUNT")]
        notary: Vec<AccountId>,
    },
    /// Add the records of a JSONL, CSV or text file, or of a folder of them.
    Add {
        /// The file or folder.
        file: PathBuf,
        /// The datanet: its id, the beginning of it, or its name; not needed when there is only one and it is yours.
        #[arg(long, value_name = "DATANET")]
        to: Option<String>,
        /// The records' licence, when it is not the datanet's.
        #[arg(long, alias = "license", value_name = "SPDX")]
        licence: Option<String>,
    },
    /// List the datanets known here.
    Ls,
    /// Show one with its contributors.
    Show {
        /// Its id, the beginning of it, or its name.
        datanet: String,
    },
    /// Commit to the records of a file before anybody sees them: only a hash leaves this machine. Adding the same file later
    /// proves since when they are yours, also where somebody else has added them meanwhile.
    Commit {
        /// The file or folder, as it will be added.
        file: PathBuf,
        /// The datanet: its id, the beginning of it, or its name; not needed when there is only one and it is yours.
        #[arg(long, value_name = "DATANET")]
        to: Option<String>,
    },
    /// List the records that several accounts claim: whose they are, and what proves it.
    Claims {
        /// Its id, the beginning of it, or its name.
        datanet: String,
    },
    /// List the records that repeat others: they are neither trained nor credited.
    Repeats {
        /// Its id, the beginning of it, or its name.
        datanet: String,
    },
    /// List the records that look wrong to an adapter that was trained on them, the most doubtful first. Nothing is left
    /// out or unpaid by it.
    Doubts(DoubtsArgs),
    /// Show what people read about one, or change it.
    Card {
        /// Its id, the beginning of it, or its name.
        datanet: String,
        #[command(flatten)]
        edit: CardEdit,
    },
}

/// Refused lines that people are shown.
const REFUSALS_SHOWN: usize = 200;

pub(super) async fn run(context: &Context, command: DataCommand) -> Result<Output, Failure> {
    match command {
        DataCommand::New { name, licence, member, notary } => {
            context.no_preview("data new")?;
            let given = |accounts: &[AccountId]| if accounts.is_empty() { Value::Null } else { json!(accounts) };
            let (members, notaries) = (given(&member), given(&notary));
            let body = json!({"name": name, "licence": licence, "members": members, "notaries": notaries});
            let made = context.client.post("/api/datanets", &body).await?;
            Ok(created(made))
        }
        DataCommand::Add { file, to, licence } => add(context, &file, to.as_deref(), licence).await,
        DataCommand::Ls => Ok(list(context.client.get("/api/datanets").await?)),
        DataCommand::Show { datanet } => {
            let known = context.client.get("/api/datanets").await?;
            Ok(show(DATANET.find(&known, &datanet)?))
        }
        DataCommand::Commit { file, to } => claims::commit(context, &file, to.as_deref()).await,
        DataCommand::Claims { datanet } => claims::run(context, &datanet).await,
        DataCommand::Repeats { datanet } => repeats::run(context, &datanet).await,
        DataCommand::Doubts(args) => doubts::run(context, &args).await,
        DataCommand::Card { datanet, edit } => card::run(context, &datanet, &edit).await,
    }
}

fn created(made: Value) -> Output {
    let id = text::field(&made["id"]);
    let next = format!("tributary data add FILE --to {}", text::short(&made["id"]));
    Output::new(made, vec![id.clone()], format!("{id}\n")).note("✓ the datanet is made").next(next)
}

async fn add(context: &Context, file: &Path, to: Option<&str>, licence: Option<String>) -> Result<Output, Failure> {
    let path = located(file)?;
    let known = context.client.get("/api/datanets").await?;
    let datanet = destination(&known, to)?;
    if context.dry_run {
        return read_only(&path).await;
    }
    let under = licence.clone().unwrap_or_else(|| text::field(&datanet["licence"]));
    let body = json!({"path": path, "licence": licence});
    let route = format!("/api/datanets/{}/records", text::field(&datanet["id"]));
    match context.client.post(&route, &body).await {
        Ok(summary) => {
            let told =
                format!("they are in {} under {}, for everybody", text::field(&datanet["name"]), text::line(&under));
            Ok(added(summary, text::short(&datanet["id"])).note(told))
        }
        Err(error) => {
            explain_refusals(context, path).await;
            Err(error.into())
        }
    }
}

/// Where records go: what is published stays published, so a datanet of others has to be named, also where it is the only one.
fn destination<'list>(known: &'list Value, to: Option<&str>) -> Result<&'list Value, Failure> {
    let datanet = DATANET.find_or_only(known, to, "--to")?;
    if to.is_some() || datanet["own"] == true {
        return Ok(datanet);
    }
    let reason = format!("the only datanet here, {}, was begun by others", text::field(&datanet["name"]));
    let hint = format!(
        "--to {} adds to it, for everybody; tributary data new NAME --licence SPDX begins your own",
        text::short(&datanet["id"])
    );
    Err(Failure::usage(reason, &hint))
}

/// The file's whole path, which the node reads.
fn located(file: &Path) -> Result<PathBuf, Failure> {
    let path = std::path::absolute(file).map_err(|error| Failure::usage(error, "give a file or a folder"))?;
    if path.to_str().is_none() {
        let hint = "rename the file; its path must be text";
        return Err(Failure::usage(format!("{} is not UTF-8", path.display()), hint));
    }
    Ok(path)
}

/// What adding would find, without the node.
async fn read_only(path: &Path) -> Result<Output, Failure> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || ingest::read_path(&path, &IngestLimits::default())).await;
    let ingested = read
        .map_err(|error| Failure::new(FAILED, error, ""))?
        .map_err(|error| Failure::usage(error, "give a JSONL, CSV or text file, or a folder of them"))?;
    let refused: Vec<Value> = ingested.refused.iter().take(REFUSALS_SHOWN).map(refusal_json).collect();
    let summary = json!({
        "dry_run": true,
        "added": ingested.records.len(),
        "refused": refused,
        "refused_count": ingested.refused_total,
        "duplicates": ingested.duplicates,
    });
    let line = summary_line(&summary, "to add");
    let output = with_refusals(Output::new(summary.clone(), Vec::new(), line), &summary);
    Ok(output.note("this was a preview: nothing was added"))
}

/// When nothing was usable the node says so in one sentence; the lines are here to be read again.
async fn explain_refusals(context: &Context, path: PathBuf) {
    let read = tokio::task::spawn_blocking(move || ingest::read_path(&path, &IngestLimits::default())).await;
    if let Ok(Err(IngestError::NothingUsable { refused, .. } | IngestError::NoReadableFiles { refused, .. })) = read {
        for refusal in refused.iter().take(REFUSALS_SHOWN) {
            context.say(&refusal_line(&refusal_json(refusal)));
        }
    }
}

fn refusal_json(refusal: &Refusal) -> Value {
    json!({"file": refusal.file.display().to_string(), "line": refusal.line, "reason": refusal.reason.to_string()})
}

/// `file:line: reason`, as compilers write it; a whole file has no line.
fn refusal_line(refusal: &Value) -> String {
    let (file, reason) = (text::field(&refusal["file"]), text::field(&refusal["reason"]));
    match text::number(&refusal["line"]) {
        0 => format!("{file}: {reason}"),
        line => format!("{file}:{line}: {reason}"),
    }
}

fn summary_line(summary: &Value, done: &str) -> String {
    let already = match text::number(&summary["already"]) {
        0 => String::new(),
        count => format!(" · {} there already", text::grouped(count)),
    };
    format!(
        "{} {done} · {} refused · {}{already}\n",
        text::counted(text::number(&summary["added"]), "record"),
        text::grouped(text::number(&summary["refused_count"])),
        text::counted(text::number(&summary["duplicates"]), "duplicate"),
    )
}

fn with_refusals(mut output: Output, summary: &Value) -> Output {
    let refused = text::rows(&summary["refused"]);
    output.notes.extend(refused.iter().map(refusal_line));
    let all = text::number(&summary["refused_count"]);
    let hidden = all.saturating_sub(u64::try_from(refused.len()).unwrap_or(u64::MAX));
    if hidden > 0 {
        output.notes.push(format!("… and {} more", text::grouped(hidden)));
    }
    if let Some(reason) = summary["stopped"].as_str() {
        output.notes.push(format!("! reading stopped early: {}", text::line(reason)));
    }
    output
}

fn added(summary: Value, datanet: String) -> Output {
    let ids = summary["shard"].as_str().map(str::to_owned).into_iter().collect();
    let line = summary_line(&summary, "added");
    let mut output = with_refusals(Output::new(summary.clone(), ids, line), &summary);
    let repeated = text::number(&summary["repeated"]);
    if repeated > 0 {
        let records = text::counted(repeated, "record");
        output = output
            .note(format!("! {records} repeat others nearly word for word: neither trained nor credited"))
            .note(format!("  tributary data repeats {datanet} shows them"));
    }
    let others = text::number(&summary["credited_to_others"]);
    if others > 0 {
        output = output
            .note(format!("! {} of these others added before, who are credited", text::counted(others, "record")));
    }
    if summary["commitment"].is_u64() {
        output = output.note("✓ these are the records that you had committed to");
    }
    if others > 0 || summary["commitment"].is_u64() {
        output =
            output.note(format!("  tributary data claims {datanet} shows what others claim too, and what proves it"));
    }
    let output = match text::number(&summary["added"]) {
        0 => output.note("these records were in the datanet already: nothing changed"),
        _ => output,
    };
    output.next(format!("tributary train start --data {datanet} --budget OPEN"))
}

fn list(known: Value) -> Output {
    let mut table = Table::new(&["DATANET", "NAME", "TITLE", "LICENCE", "BY", "RECORDS", "SIZE", "HERE"]);
    for row in text::rows(&known) {
        table.row([
            text::short(&row["id"]),
            text::field(&row["name"]),
            text::field(&row["title"]),
            text::field(&row["licence"]),
            text::rows(&row["contributors"]).len().to_string(),
            text::grouped(text::number(&row["records"])),
            text::size(text::number(&row["bytes"])),
            here(row).to_owned(),
        ]);
    }
    let is_empty = text::rows(&known).is_empty();
    let output = Output::new(known.clone(), text::ids(&known, "id"), table.render());
    if is_empty {
        output.note("no datanet is known here").next("tributary data new NAME --licence SPDX")
    } else {
        output
    }
}

fn here(row: &Value) -> &'static str {
    if row["complete"] == true { "all" } else { "part" }
}

fn show(row: &Value) -> Output {
    let mut shown = text::fields(&[
        ("datanet", text::field(&row["id"])),
        ("name", text::field(&row["name"])),
        ("title", text::field(&row["title"])),
        ("licence", text::field(&row["licence"])),
        ("head", text::field(&row["head"])),
        ("records", text::grouped(text::number(&row["records"]))),
        ("size", format!("{} ({} of it here)", text::size(text::number(&row["bytes"])), here(row))),
        ("attested", claims::attested(row)),
    ]);
    let mut table = Table::new(&["CONTRIBUTOR", "ADDITIONS", "RECORDS", "SIZE"]);
    for contributor in text::rows(&row["contributors"]) {
        table.row([
            text::short(&contributor["account"]),
            text::grouped(text::number(&contributor["entries"])),
            text::grouped(text::number(&contributor["records"])),
            text::size(text::number(&contributor["bytes"])),
        ]);
    }
    let table = table.render();
    if !table.is_empty() {
        shown.push('\n');
        shown.push_str(&table);
    }
    Output::new(row.clone(), vec![text::field(&row["id"])], shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts_and_names_each_refused_line() {
        let summary = json!({
            "added": 1204, "refused_count": 3, "duplicates": 1, "shard": "ab", "repeated": 2,
            "refused": [
                {"file": "a.jsonl", "line": 7, "reason": "no JSON"},
                {"file": "b.bin", "line": 0, "reason": "not UTF-8"},
            ],
        });
        let output = added(summary, "abcdef".into());
        assert_eq!(output.text, "1,204 records added · 3 refused · 1 duplicate\n");
        assert_eq!(output.notes[..3], ["a.jsonl:7: no JSON", "b.bin: not UTF-8", "… and 1 more"]);
        assert!(output.notes[3].starts_with("! 2 records repeat others"), "{:?}", output.notes);
        assert_eq!(output.notes[4], "  tributary data repeats abcdef shows them");
        assert_eq!(output.ids, ["ab"]);
    }

    #[test]
    fn a_datanet_of_others_is_named_by_whoever_adds_to_it() {
        let known = |own: bool| json!([{"id": "abcdef00", "name": "river", "own": own}]);
        assert!(destination(&known(true), None).is_ok() && destination(&known(false), Some("river")).is_ok());
        let refused = destination(&known(false), None).unwrap_err();
        assert!(refused.message.contains("river") && refused.hint.contains("--to abcdef00"), "{refused:?}");
    }

    #[test]
    fn adding_again_says_that_nothing_changed() {
        let summary = json!({"added": 0, "refused": [], "refused_count": 0, "duplicates": 0, "already": 1204});
        let output = added(summary, "ab".into());
        assert_eq!(output.text, "0 records added · 0 refused · 0 duplicates · 1,204 there already\n");
        assert!(output.notes.iter().any(|note| note.contains("nothing changed")));
    }

    #[test]
    fn the_list_fits_a_terminal() {
        let row = json!({
            "id": "0".repeat(64), "name": "n".repeat(64), "title": "t".repeat(200), "licence": "l".repeat(64), "contributors": [1, 2],
            "records": 1_000_000, "bytes": 5_000_000_000_u64, "complete": true,
        });
        let output = list(json!([row]));
        assert!(output.text.lines().all(|line| line.chars().count() <= 80), "{}", output.text);
        assert_eq!(output.ids, ["0".repeat(64)]);
        assert!(list(json!([])).text.is_empty());
    }

    #[tokio::test]
    async fn a_preview_of_adding_reads_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mixed.jsonl");
        std::fs::write(&file, "{\"text\": \"a good record\"}\nbroken\n").unwrap();
        let output = read_only(&file).await.unwrap();
        assert_eq!(output.text, "1 record to add · 1 refused · 0 duplicates\n");
        assert!(output.notes[0].contains("mixed.jsonl:2: "), "{:?}", output.notes);
    }
}
