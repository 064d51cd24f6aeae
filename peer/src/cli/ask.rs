//! `tributary ask`: a question whose answer streams, and who made it possible.

mod wording;

use std::io::IsTerminal;

use clap::Args;
use serde_json::{Value, json};
use tributary_protocol::id::Amount;
use tributary_protocol::limits::PASSAGES_MAX;

use self::wording::WordingArgs;
use super::failure::Failure;
use super::output::{Context, Output, emit};
use super::table::{Table, WIDTH};
use super::{amount, model, text};
use crate::http::ASK_TIMEOUT_MAX_S;
use crate::percent::percents;

/// The most records that are retrieved for one question, as clap counts.
const RETRIEVED_MAX: i64 = PASSAGES_MAX as i64;

#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// The question, as the text that the model goes on from; see --chat.
    prompt: Option<String>,
    /// The model: its name, its id, or the beginning of it; not needed when there is only one name.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Have up to so many records of the model's datanet put before the question, 3 without a number: their contributors
    /// are paid for what the answer owes to them.
    #[arg(long, value_name = "RECORDS", num_args = 0..=1, require_equals = true, default_missing_value = "3",
        value_parser = clap::value_parser!(u8).range(1..=RETRIEVED_MAX))]
    retrieve: Option<u8>,
    /// Show who contributed how much to the answer.
    #[arg(long)]
    explain: bool,
    /// Have another peer check the computation; tributary answer verify shows what it found.
    #[arg(long)]
    check: bool,
    /// The most to pay, in OPEN.
    #[arg(long, value_name = "OPEN", value_parser = amount::parse, default_value = "1")]
    max_price: Amount,
    /// How long to wait, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=ASK_TIMEOUT_MAX_S))]
    timeout_s: u64,
    #[command(flatten)]
    wording: WordingArgs,
}

/// What of an answer stands on standard output.
///
/// Invariant: what was written last, from the last line break that this type added on, is the text of the answer
/// as far as it is known, without the space that models begin with.
#[derive(Debug, Default)]
struct Transcript {
    written: String,
    attempt: String,
}

impl Transcript {
    /// More text of the worker that is asked now: what is to be written.
    fn more(&mut self, piece: &str) -> String {
        self.attempt.push_str(if self.attempt.is_empty() { piece.trim_start() } else { piece });
        // A second worker's answer is most often the first one's: it is written on only where it goes further.
        if self.written.starts_with(&self.attempt) {
            return String::new();
        }
        let attempt = self.attempt.clone();
        self.advance(&attempt)
    }

    /// The worker failed; another one begins anew.
    fn retry(&mut self) {
        self.attempt.clear();
    }

    /// The answer that the receipt is for: what is still to be written.
    fn finish(&mut self, answer: &str) -> String {
        self.advance(answer.trim_start())
    }

    fn advance(&mut self, to: &str) -> String {
        let new = match to.strip_prefix(self.written.as_str()) {
            Some(rest) => rest.to_owned(),
            None => format!("\n{to}"),
        };
        to.clone_into(&mut self.written);
        new
    }
}

pub(super) async fn run(context: &Context, args: AskArgs) -> Result<Output, Failure> {
    let wording = args.wording.fields(args.prompt.as_deref())?;
    let releases = context.client.get("/api/releases").await?;
    let release = model::choose(&releases, args.model.as_deref())?;
    if context.dry_run {
        return preview(context, release, &args).await;
    }
    let mut body = json!({
        "model": release["adapter"],
        "price_max": args.max_price,
        "check": args.check,
        "retrieve": args.retrieve,
        "timeout_s": args.timeout_s,
    });
    if let Some(fields) = body.as_object_mut() {
        fields.extend(wording);
    }
    let done = stream(context, &body).await?;
    Ok(answered(done, &args))
}

async fn stream(context: &Context, body: &Value) -> Result<Value, Failure> {
    let streams = !context.json && !context.quiet;
    let is_terminal = std::io::stdout().is_terminal();
    let write = |new: &str| {
        let shown = if is_terminal { text::printable(new) } else { new.to_owned() };
        if streams && !new.is_empty() { emit(&shown) } else { Ok(()) }
    };
    let mut transcript = Transcript::default();
    let mut broken = None;
    let mut on_line = |line: &Value| {
        if let Some(piece) = line["text"].as_str() {
            broken = write(&transcript.more(piece)).err().or(broken.take());
        } else if let Some(reason) = line["waiting"].as_str() {
            context.say(&format!("! {} (at most {} s)", text::line(reason), body["timeout_s"]));
        } else if let Some(reason) = line["retry"].as_str() {
            transcript.retry();
            if reason.is_empty() {
                return;
            }
            context.say(&format!("\n! the worker failed ({}): another one is asked", text::line(reason)));
        }
    };
    let asked = context.client.ask(body, &mut on_line).await;
    if let Some(failure) = broken {
        return Err(failure);
    }
    let done = match asked {
        Ok(done) => done,
        Err(error) => {
            if !transcript.written.is_empty() {
                write("\n")?;
            }
            return Err(error.into());
        }
    };
    write(&transcript.finish(done["text"].as_str().unwrap_or_default()))?;
    write("\n")?;
    Ok(done)
}

fn answered(done: Value, args: &AskArgs) -> Output {
    let receipt = text::field(&done["receipt"]);
    let explanation = if args.explain { explain(&done) } else { String::new() };
    let key = text::short(&done["key"]);
    let next = match args.check {
        true => format!("tributary answer verify {key} --wait-s 30"),
        false => format!("tributary answer explain {key}"),
    };
    let note = format!(
        "✓ {} OPEN, answered by node {}, receipt {}",
        amount::exact(text::amount(&done["price"])),
        text::short(&done["worker"]),
        text::short(&done["receipt"]),
    );
    let was_cut = args.wording.is_spent_by(text::number(&done["answer_tokens"]));
    let output = Output::new(done, vec![receipt], explanation).note(note).next(next);
    was_cut.into_iter().fold(output, |output, cut| output.note(cut))
}

/// Who contributed what share of the answer.
pub(super) fn explain(ask: &Value) -> String {
    let mut table = Table::new(&["CONTRIBUTOR", "SHARE"]);
    let mut shares: Vec<&Value> = text::rows(&ask["shares"]).iter().collect();
    shares.sort_by_key(|share| std::cmp::Reverse(text::number(&share["weight"])));
    let names = shares.iter().map(|share| text::short(&share["account"]));
    let names = names.chain(["commons (no record explains it)".into()]);
    let weights = shares.iter().map(|share| &share["weight"]).chain([&ask["commons"]]);
    let parts = percents(&weights.map(text::number).collect::<Vec<_>>());
    names.zip(parts).for_each(|(name, part)| table.row([name, part]));
    let sources = sources(&ask["sources"]).map(|shown| format!("\n{shown}")).unwrap_or_default();
    format!("\n{}receipt {}\n{sources}", table.render(), text::field(&ask["receipt"]))
}

/// What of an answer came from the adapter and what from each record before its question, where records were wanted.
pub(super) fn sources(shown: &Value) -> Option<String> {
    shown["wanted"].as_u64()?;
    let mut records: Vec<&Value> = text::rows(&shown["records"]).iter().collect();
    if records.is_empty() {
        return Some("No record was found that fits the question and before it.\n".into());
    }
    records.sort_by_key(|record| std::cmp::Reverse(text::number(&record["weight"])));
    let mut table = Table::wrapping(&["FROM", "PART", "TEXT"]).within(WIDTH - 2);
    let weights = records.iter().map(|record| &record["weight"]);
    let weights = [&shown["adapter"]].into_iter().chain(weights).chain([&shown["nobody"]]);
    let mut parts = percents(&weights.map(text::number).collect::<Vec<_>>()).into_iter();
    let mut row = |from: String, said: String| table.row([from, parts.next().unwrap_or_default(), said]);
    row("what the model was trained on".into(), String::new());
    for record in records {
        let from = format!("record {} of {}", text::short(&record["record"]), text::short(&record["contributor"]));
        row(from, text::line(record["text"].as_str().unwrap_or_default()).chars().take(SHOWN_CHARS).collect());
    }
    row("none of these".into(), String::new());
    Some(table.render())
}

/// Characters of a record that stand beside its part.
const SHOWN_CHARS: usize = 160;

/// What a question may cost.
async fn preview(context: &Context, release: &Value, args: &AskArgs) -> Result<Output, Failure> {
    let peers = context.client.get("/api/peers").await?;
    let serving = text::rows(&peers).iter().filter(|peer| text::rows(&peer["serving"]).contains(&release["adapter"]));
    let prices: Vec<Amount> = serving.map(|peer| text::amount(&peer["answer_price"])).collect();
    let fee = text::amount(&release["answer_fee"]);
    let worker = prices.iter().min().copied();
    let price = match worker {
        Some(worker) => format!("from {} OPEN", amount::exact(worker)),
        None => "not known: nobody serves it now".into(),
    };
    let document = json!({"dry_run": true, "would": {
        "model": release["adapter"], "fee": fee, "worker_price_from": worker, "served_by": prices.len(), "max_price": args.max_price,
    }});
    let shown = text::fields(&[
        ("model", format!("{} ({})", text::field(&release["name"]), text::short(&release["adapter"]))),
        ("worker's price", price),
        ("fee", format!("{} OPEN for contributors, builder, verifier, treasury", amount::exact(fee))),
        ("at most", format!("{} OPEN", amount::exact(args.max_price))),
    ]);
    Ok(Output::new(document, Vec::new(), shown).note("this was a preview: nothing was asked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_written_as_it_comes() {
        let mut transcript = Transcript::default();
        assert_eq!(transcript.more(" "), "");
        assert_eq!(transcript.more(" The bri"), "The bri");
        assert_eq!(transcript.more("dge"), "dge");
        assert_eq!(transcript.finish("  The bridge"), "");
    }

    #[test]
    fn an_equal_second_answer_goes_on_where_the_first_broke_off() {
        let mut transcript = Transcript::default();
        transcript.more("The bri");
        transcript.retry();
        assert_eq!(transcript.more("The"), "");
        assert_eq!(transcript.more(" bridge"), "dge");
        assert_eq!(transcript.finish("The bridge closed"), " closed");
    }

    #[test]
    fn another_second_answer_begins_on_its_own_line() {
        let mut transcript = Transcript::default();
        transcript.more("In March");
        transcript.retry();
        assert_eq!(transcript.more("In"), "");
        assert_eq!(transcript.more(" May"), "\nIn May");
        assert_eq!(transcript.finish("In May 2019"), " 2019");
    }

    #[test]
    fn lost_pieces_are_made_up_for_at_the_end() {
        let mut transcript = Transcript::default();
        transcript.more("one ");
        transcript.more("three");
        assert_eq!(transcript.finish("one two three"), "\none two three");
        let mut longer = Transcript::default();
        longer.more("one two");
        assert_eq!(longer.finish("one"), "\none");
        assert_eq!(Transcript::default().finish("ä"), "ä");
    }

    #[test]
    fn what_an_answer_came_from_is_listed_from_the_largest() {
        let record =
            |id: &str, weight: u32| json!({"record": id, "contributor": "cc", "weight": weight, "text": "a\u{1b}[2Jb"});
        let shown = json!({"wanted": 3, "adapter": 240_000, "nobody": 60_000, "records": [
            record("aa", 100_000), record("bb", 600_000),
        ]});
        let table = sources(&shown).unwrap();
        let order = [
            "what the model was",
            "24.0 %",
            "record bb of cc",
            "60.0 %",
            "record aa of cc",
            "10.0 %",
            "none of these",
            "6.0 %",
        ];
        let places: Vec<usize> = order.iter().map(|part| table.find(part).unwrap()).collect();
        assert!(places.is_sorted() && !table.contains('\u{1b}'), "{table}");
        assert_eq!(sources(&Value::Null), None);
        assert!(sources(&json!({"wanted": 3, "records": []})).unwrap().contains("No record"));
    }

    #[test]
    fn shares_are_listed_from_the_largest_with_the_commons() {
        let ask = json!({
            "receipt": "ff", "commons": 100_000,
            "shares": [{"account": "aaaaaaaaaaaa", "weight": 200_000}, {"account": "bbbbbbbbbbbb", "weight": 700_000}],
        });
        let text = explain(&ask);
        let order = ["bbbbbbbbbb  ", "70.0 %", "aaaaaaaaaa  ", "20.0 %", "commons", "10.0 %", "receipt ff"];
        let places: Vec<usize> = order.iter().map(|part| text.find(part).unwrap()).collect();
        assert!(places.is_sorted(), "{text}");
    }
}
