//! `tributary answer explain`: who taught an answer, what they earn, how that was measured, and what it repeats.
//!
//! Invariant: the shares shown with the commons sum to the whole, as the receipt's check requires.

use serde_json::{Value, json};
use tributary_protocol::attribution::{Share, WHOLE};
use tributary_protocol::economy::PaymentRole;
use tributary_protocol::receipt::Receipt;

use crate::cli::output::Output;
use crate::cli::table::{Table, WIDTH};
use crate::cli::{amount, ask, quality, text};

/// What the adapter's contributors are paid by.
const LEFT_OUT: &str = "The model was trained again without each contributor's records. A share says how much worse this \
                        answer would be without them, beside the others; what no contributor explains, the base model \
                        knew or nobody can be named for, and it goes to the commons.";

/// Characters before what belongs to a heading.
const INDENT: usize = 2;

/// The explanation of `answer` (as the API shows it) with its receipt and what the node found of it in the records.
pub(super) fn explain(answer: &Value, receipt: &Receipt, evidence: &Value) -> Output {
    let mut shares: Vec<&Share> = receipt.shares.iter().collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.weight));
    let note = &receipt.attribution;
    let document = json!({
        "key": answer["key"],
        "text": answer["text"],
        "receipt": answer["receipt"],
        "shares": shares.iter().map(|share| json!({
            "account": share.account, "weight": share.weight, "amount": paid(receipt, share),
        })).collect::<Vec<_>>(),
        "commons": receipt.commons,
        "sources": answer["sources"],
        "whole": WHOLE,
        "method": {"name": note.method, "version": note.version, "index": note.index, "measured_quality": note.quality},
        "verdict": answer["verdict"],
        "evidence": evidence,
    });
    let sources = ask::sources(&answer["sources"]).map(|shown| section("What it came from", &shown));
    let shown = [
        text::printable(answer["text"].as_str().unwrap_or_default().trim()),
        section("Who taught it", &table(receipt, &shares)),
        sources.unwrap_or_default(),
        section("How this is known", &method(receipt, answer)),
        section("Word for word", &quotations(evidence)),
    ];
    Output::new(document, vec![text::field(&answer["key"])], shown.join("\n"))
        .next(format!("tributary answer verify {}", text::short(&answer["key"])))
}

fn section(head: &str, body: &str) -> String {
    let lines: String = body.lines().map(|line| format!("{:INDENT$}{line}\n", "").replace("  \n", "\n")).collect();
    format!("\n{head}\n{lines}")
}

fn paid(receipt: &Receipt, share: &Share) -> Option<tributary_protocol::id::Amount> {
    let is_its = |role| role == PaymentRole::Contributor;
    let payment = receipt.payments.iter().find(|payment| is_its(payment.role) && payment.to == share.payout);
    payment.map(|payment| payment.amount)
}

fn table(receipt: &Receipt, shares: &[&Share]) -> String {
    let mut table = Table::new(&["CONTRIBUTOR", "SHARE", "OPEN"]);
    for share in shares {
        let earned = paid(receipt, share).map_or_else(|| "-".into(), amount::exact);
        table.row([share.account.short(), text::percent(share.weight.into()), earned]);
    }
    table.row(["the commons".into(), text::percent(receipt.commons.into()), "-".into()]);
    let whole = shares.iter().map(|share| u64::from(share.weight)).sum::<u64>() + u64::from(receipt.commons);
    table.row(["together".into(), text::percent(whole), "-".into()]);
    table.render()
}

fn method(receipt: &Receipt, answer: &Value) -> String {
    let note = &receipt.attribution;
    let told = match note.method.as_str() {
        "loco-delta" => LEFT_OUT.to_owned(),
        "loco-delta+retrieval" => format!(
            "Records stood before the question. The answer was computed again with and without the adapter, and with \
             every choice of these records: each is paid for how much better the answer is with it, on average over the \
             orders in which adapter and records may come (Shapley's value), and so is the adapter, whose part is \
             divided among its contributors. {LEFT_OUT}"
        ),
        _ => "This node does not know the method.".to_owned(),
    };
    let check = match answer["verdict"]["outcome"].as_str() {
        Some("confirmed") => "Another peer computed answer and shares again and found them equal.",
        Some("refuted") => "Another peer computed answer and shares again and found OTHERS: do not rely on them.",
        Some(_) => "Another peer could not check the answer.",
        None => "No other peer has checked the answer.",
    };
    let by = format!(
        "Method {}, version {}, by index {}, published before the answer.",
        text::line(&note.method),
        note.version,
        note.index.short(),
    );
    let lines = [told.as_str(), check, &by, &quality::told(note.quality)]
        .map(|part| text::wrapped(part, WIDTH - INDENT).join("\n"));
    lines.join("\n")
}

fn quotations(evidence: &Value) -> String {
    let found = text::rows(&evidence["quotations"]);
    let skipped = match text::number(&evidence["skipped"]) {
        0 => String::new(),
        number => format!(" {} could not be looked through.", text::counted(number, "shard")),
    };
    if found.is_empty() {
        let looked = format!(
            "No part of the answer stands in the {} words of {} that chance would not explain.{skipped}",
            text::grouped(text::number(&evidence["record_words"])),
            text::counted(text::number(&evidence["shards"]), "shard"),
        );
        return text::wrapped(&looked, WIDTH - INDENT).join("\n");
    }
    let one = |quotation: &Value| {
        let of = |name: &str| text::line(quotation[name].as_str().unwrap_or_default());
        let who = format!(
            "{}, record {} of {}:",
            text::counted(text::number(&quotation["words"]), "word"),
            text::short(&quotation["record"]),
            text::short(&quotation["contributor"]),
        );
        let there = format!("…{}«{}»{}…", of("before"), of("text"), of("after"));
        let lines = text::wrapped(&there, WIDTH - 2 * INDENT);
        format!("{who}\n{}", lines.iter().map(|line| format!("{:INDENT$}{line}\n", "")).collect::<String>())
    };
    found.iter().map(one).collect::<String>() + skipped.trim_start()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotations_show_the_words_in_their_record_and_their_absence_is_said() {
        let none = quotations(&json!({"quotations": [], "record_words": 12_345, "shards": 2}));
        assert!(none.contains("12,345") || none.contains("12 345"), "{none}");
        let evidence = json!({"quotations": [{
            "text": "kept the lighthouse", "before": "Mira\u{1b}[2J Tolven ", "after": " since", "words": 3,
            "record": "ab".repeat(32), "contributor": "cd".repeat(32),
        }]});
        let shown = quotations(&evidence);
        assert!(shown.contains("«kept the lighthouse»") && shown.contains("3 words"), "{shown}");
        assert!(!shown.contains('\u{1b}'), "{shown}");
    }
}
