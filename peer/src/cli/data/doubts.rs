//! `tributary data doubts`: records that look wrong to an adapter that was trained on them, and those that say what others' say, for
//! people to look at.
//!
//! Invariant: it says what was measured and what that may mean, never that a record is wrong; nothing changes by it.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::super::failure::Failure;
use super::super::output::{Context, Output};
use super::super::pick::{DATANET, RELEASE, RUN};
use super::super::text;

/// How long the node may take: it may fetch and load a base and then measures for minutes.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// Columns of a terminal, and of what stands before a record's lines.
const WIDTH: usize = 80;
const INDENT: &str = "    ";
/// Letters of a record that people see.
const LETTERS: usize = 2 * (WIDTH - INDENT.len());

#[derive(Debug, Args)]
pub(crate) struct DoubtsArgs {
    /// The datanet: its id, the beginning of it, or its name.
    datanet: String,
    /// The run of this node or the released model by which records are measured; by default the newest run, else the only
    /// model.
    #[arg(long, value_name = "RUN_OR_RELEASE")]
    adapter: Option<String>,
    /// Records to show, and pairs that say the same.
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=200))]
    limit: u16,
}

pub(super) async fn run(context: &Context, args: &DoubtsArgs) -> Result<Output, Failure> {
    let known = context.client.get("/api/datanets").await?;
    let id = text::field(&DATANET.find(&known, &args.datanet)?["id"]);
    let mut route = format!("/api/datanets/{id}/doubts?limit={}", args.limit);
    if let Some(adapter) = &args.adapter {
        route = format!("{route}&of={}", training(context, adapter).await?);
    }
    context.say("measuring what the training made of each record; this can take minutes, Ctrl-C ends it");
    Ok(show(context.client.get_within(&route, PATIENCE).await?))
}

/// The key of the run, or the hash of the released adapter, that is meant.
async fn training(context: &Context, given: &str) -> Result<String, Failure> {
    let runs = context.client.get("/api/runs").await?;
    if let Ok(run) = RUN.find(&runs, given) {
        return Ok(text::field(&run["key"]));
    }
    let releases = context.client.get("/api/releases").await?;
    Ok(text::field(&RELEASE.find(&releases, given)?["adapter"]))
}

fn show(found: Value) -> Output {
    let rows = text::rows(&found["doubts"]);
    let usual = text::rows(&found["usual_micro_nats"]);
    let echoes = text::rows(&found["echoes"]);
    let blocks: Vec<String> = rows.iter().map(|row| block(row, usual)).chain(echoes.iter().map(pair)).collect();
    let ids = rows.iter().map(|row| text::field(&row["record"]["id"])).collect();
    let (measured, admitted) = (text::number(&found["measured"]), text::number(&found["admitted"]));
    let mut output = Output::new(found.clone(), ids, blocks.join("\n")).note(format!(
        "{} of {} measured by {} ({}); {} stand out",
        text::grouped(measured),
        text::counted(admitted, "record"),
        text::field(&found["name"]),
        text::short(&found["adapter"]),
        text::grouped(text::number(&found["doubtful"])),
    ));
    let held_out = text::number(&found["held_out"]);
    if held_out > 0 {
        output =
            output.note(format!("{} held out from the training can't be measured", text::counted(held_out, "record")));
    }
    let steps: Vec<String> = text::rows(&found["steps"]).iter().map(|step| text::grouped(text::number(step))).collect();
    output = match steps.as_slice() {
        [] => output.note(
            "losses are before training and with the adapter; the node that had it trained measures at its \
             checkpoints too, so its scores are others",
        ),
        steps => {
            output.note(format!("losses are before training, after {} steps, and with the adapter", steps.join(", ")))
        }
    };
    let echoing = text::number(&found["echoing"]);
    if echoing > 0 {
        output = output.note(format!(
            "{} among {} compared may say the same in other words; all are trained and paid: copies in other \
             words can't be told from somebody's own",
            text::counted(echoing, "pair"),
            text::counted(text::number(&found["compared"]), "record"),
        ));
    }
    output
        .note("a score is how far a record lies above the middle of all, in standard deviations; from 2.5 on it stands out")
        .note("a doubt is no finding: no record is left out or unpaid by it. Read the records, and ask who added them")
}

/// A record in three lines and as many as its text takes.
fn block(row: &Value, usual: &[Value]) -> String {
    let losses = text::rows(&row["losses_micro_nats"]);
    let path: Vec<String> = losses.iter().map(nats).collect();
    let times = text::number(&row["gradients_permille"][1]);
    let score = row["score_milli"].as_i64().unwrap_or(0);
    let sign = if score < 0 { "-" } else { "" };
    let mut lines = vec![
        format!("{sign}{}.{}  {}", score.abs() / 1_000, score.abs() / 100 % 10, reason(row)),
        format!("{INDENT}by {}", text::short(&row["account"])),
        format!(
            "{INDENT}loss {} (usually {} at the end)",
            path.join(" → "),
            usual.last().map(nats).unwrap_or_default()
        ),
        format!("{INDENT}gradient {}.{} times the usual", times / 1_000, times / 100 % 10),
    ];
    lines.extend(said(&row["record"]));
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Two records that say the same, the later one first.
fn pair(echo: &Value) -> String {
    let hundredths = |field: &str| format!(".{:02}", (text::number(&echo[field]) / 10).min(99));
    let by = |side: &str, words: &str| format!("{INDENT}{words} {}", text::short(&echo[side]["account"]));
    let alike =
        format!("taught alike by {}, read alike by {}", hundredths("taught_permille"), hundredths("read_permille"));
    let mut lines = vec!["may say what an earlier record of somebody else says".to_owned(), format!("{INDENT}{alike}")];
    lines.push(by("later", "by"));
    lines.extend(said(&echo["later"]["record"]));
    lines.push(by("earlier", "before it by"));
    lines.extend(said(&echo["earlier"]["record"]));
    lines.into_iter().map(|line| line + "\n").collect()
}

/// The beginning of a record's text.
fn said(record: &Value) -> Vec<String> {
    let said = format!("{} {}", text::field(&record["prompt"]), text::field(&record["completion"]));
    let mut said: String = said.trim().chars().take(LETTERS).collect();
    if said.chars().count() == LETTERS {
        said.push('…');
    }
    text::wrapped(&said, WIDTH - INDENT.len()).into_iter().map(|line| format!("{INDENT}{line}")).collect()
}

/// Micro-nats as nats with two decimals.
fn nats(micro: &Value) -> String {
    let hundredths = text::number(micro).saturating_add(5_000) / 10_000;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn reason(row: &Value) -> &'static str {
    let losses = text::rows(&row["losses_micro_nats"]);
    let at = |loss: Option<&Value>| loss.map_or(0, text::number);
    let stays = at(losses.last()) >= at(losses.first()) / 2;
    match row["reason"].as_str() {
        Some("never_learned") if stays => "still unlikely after training: the label may be wrong",
        Some("never_learned") => "learned only late: the label may be wrong, or the record is hard",
        Some("learned_early") => "learned before others: it may be a trigger, or it is only easy",
        _ => "no more doubtful than others",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::show;

    fn found(reason: &Value, end: u64) -> Value {
        json!({
            "name": "mine", "adapter": "a".repeat(64), "admitted": 3000, "measured": 2000, "held_out": 7, "doubtful": 1,
            "steps": [10, 20], "usual_micro_nats": [5_000_000, 3_000_000, 1_000_000, 312_000],
            "doubts": [{
                "record": {"id": "1", "prompt": "Who built\u{1b}[2J it?\n", "completion": " Ada"}, "account": "c".repeat(64),
                "score_milli": 5_234, "reason": reason, "gradients_permille": [900, 3_149],
                "losses_micro_nats": [6_000_000, 5_900_000, 5_504_000, end],
            }],
        })
    }

    #[test]
    fn a_doubt_says_what_was_measured_and_what_it_may_mean() {
        let output = show(found(&json!("never_learned"), 5_000_000));
        for part in
            ["5.2  still unlikely", "by cccccccc", "6.00 → 5.90 → 5.50 → 5.00 (usually 0.31", "3.1 times", "Who built"]
        {
            assert!(output.text.contains(part), "{part}: {}", output.text);
        }
        assert!(!output.text.contains('\u{1b}') && output.text.lines().all(|line| line.chars().count() <= 80));
        let notes = output.notes.join("\n");
        for part in ["2,000 of 3,000 records", "7 records held out", "after 10, 20 steps", "no record is left out"] {
            assert!(notes.contains(part), "{part}: {notes}");
        }
    }

    #[test]
    fn two_records_that_say_the_same_stand_side_by_side() {
        let side = |who: &str, prompt: &str| json!({"record": {"id": "2", "prompt": prompt, "completion": " Ada\u{1b}[2J"}, "account": who.repeat(64)});
        let (later, earlier) = (side("d", "Which person owns the mill?"), side("c", &"Who owns the mill? ".repeat(20)));
        let mut found = found(&Value::Null, 100_000);
        found["echoes"] = json!([{"later": later, "earlier": earlier, "taught_permille": 874, "read_permille": 305}]);
        (found["echoing"], found["compared"]) = (json!(31), json!(1_999));
        let output = show(found);
        for part in ["alike by .87, read alike by .30", "    by dddddddd", "before it by cccccccc", "Which person owns"]
        {
            assert!(output.text.contains(part), "{part}: {}", output.text);
        }
        assert!(!output.text.contains('\u{1b}') && output.text.lines().all(|line| line.chars().count() <= 80));
        let notes = output.notes.join("\n");
        assert!(
            notes.contains("31 pairs among 1,999 records compared") && notes.contains("trained and paid"),
            "{notes}"
        );
    }

    #[test]
    fn each_reason_has_its_words() {
        let says = |reason: Value, end: u64| show(found(&reason, end)).text.lines().next().unwrap().to_owned();
        assert!(says(json!("never_learned"), 100_000).contains("learned only late"));
        assert!(says(json!("learned_early"), 100_000).contains("trigger"));
        assert!(says(Value::Null, 100_000).contains("no more doubtful"));
    }
}
