//! `tributary answer explain`: who taught an answer, what they earn, how that was measured, and what it repeats.
//!
//! Invariant: the shares shown with the commons sum to the whole, as the receipt's check requires.

use serde_json::{Value, json};
use tributary_protocol::attribution::{Share, WHOLE};
use tributary_protocol::economy::{self, BASIS_POINTS, Payment, PaymentRole};
use tributary_protocol::id::Amount;
use tributary_protocol::receipt::Receipt;

use crate::cli::output::Output;
use crate::cli::table::{Table, WIDTH};
use crate::cli::{amount, ask, quality, text};
use crate::percent;
use crate::work::pools::OWN_ROWS_MAX;

/// What the adapter's contributors are paid by.
const LEFT_OUT: &str = "The model was trained once more without the records of each contributor. A share tells how much less likely the \
                        model would be to say exactly this without them, beside the others; that is also so for what they \
                        taught it in general. What no contributor explains goes to the commons, the network's treasury: the \
                        base model knew it already, or several taught it, so that the others still teach it without any one of \
                        them, or nobody can be named for it.";
/// How it differs for those who were left out together, who were not left out, and without whom nothing is left.
const TOGETHER: &str = "Those who teach the same in their own words were left out together, and what that changes is divided among them \
                        by what their records say.";
const POOLED: &str = "So were those who have the fewest records of so many contributors.";
const ESTIMATED: &str = "Where it says so the change is estimated, from what their records pull at, and nothing was trained without \
                         them.";
const BASE_ALONE: &str = "Without an only contributor, or without everybody, the base model is left.";
/// What shares don't say.
const NOT_RIGHT: &str = "A share does not tell whether the answer is right: nonsense has its teachers too.";

/// Records that are shown.
const RECORDS_SHOWN: usize = 5;
/// Characters of a record's question that are, and of what it says.
const WORDS_SHOWN: usize = 160;

/// How records are told by gradients, and how far that can be trusted.
const BY_GRADIENTS: &str = "Told by how the records pull at the model where the answer does: a hint. Of single records it says \
                            far less than of all of a contributor's (compute/ATTRIBUTION.md).";
/// The same where the training is known.
const BACKWARDS: &str = "Told by going through the model's training backwards: what leaving each record out would have done \
                         to this answer, its own steps outright and later ones to first order (compute/ATTRIBUTION.md).";
/// From here on a training magnifies, in thousandths: the stable recipe doubles, the plain one has a tenfold and more.
const MAGNIFIED_PERMILLE: u64 = 5_000;
/// Characters before what belongs to a heading.
const INDENT: usize = 2;

/// The explanation of `answer` (as the API shows it) with its receipt and what the node, whose account is `own`, found of it in
/// the records.
pub(super) fn explain(answer: &Value, receipt: &Receipt, evidence: &Value, records: &Value, own: &Value) -> Output {
    let mut shares: Vec<&Share> = receipt.shares.iter().collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.weight));
    let note = &receipt.attribution;
    let document = json!({
        "key": answer["key"],
        "question": answer["question"],
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
        "records": records,
    });
    let sources = ask::sources(&answer["sources"]).map(|shown| section("What it came from", &shown));
    let asked = answer["question"].as_str().map(|question| format!("{}\n\n", text::printable(question.trim())));
    let shown = [
        asked.unwrap_or_default() + &text::printable(answer["text"].as_str().unwrap_or_default().trim()) + "\n",
        section("Who taught it", &table(receipt, &evidence["contributors"], own.as_str())),
        records.as_object().map(|_| section("Which records helped", &helped(records))).unwrap_or_default(),
        sources.unwrap_or_default(),
        section("How this is known", &method(receipt, answer, &evidence["contributors"])),
        section("Word for word", &quotations(evidence)),
    ];
    Output::new(document, vec![text::field(&answer["key"])], shown.concat())
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

/// Which part of the fee is the contributors', and what of it they were paid and the commons got, with what rounding left.
fn contributors_part(receipt: &Receipt) -> Option<(String, Amount, Amount)> {
    let policy = receipt.policy;
    let others = [policy.builder_bps, policy.verifier_bps, policy.treasury_bps];
    let left = u64::from(BASIS_POINTS).saturating_sub(others.iter().map(|bps| u64::from(*bps)).sum());
    let fee = receipt.fee();
    let cut = |left: Amount, bps: &u16| left.checked_sub(fee.checked_mul_div((*bps).into(), BASIS_POINTS.into())?);
    let part = others.iter().try_fold(fee, cut)?;
    let theirs: Vec<Payment> =
        receipt.payments.iter().filter(|payment| payment.role == PaymentRole::Contributor).copied().collect();
    let commons = part.checked_sub(economy::total(&theirs)?)?;
    Some((text::percent(left * u64::from(WHOLE) / u64::from(BASIS_POINTS)), part, commons))
}

/// How one knows what somebody taught, in a word or two.
fn left_out(contributors: &Value, account: &str) -> String {
    let found = text::rows(contributors).iter().find(|one| one["account"].as_str() == Some(account));
    let Some(found) = found else { return "-".into() };
    let others: Vec<String> = text::rows(&found["together_with"]).iter().map(text::short).collect();
    match (others.is_empty(), found["estimated"] == true) {
        (false, _) => format!("trained without it and {}", others.join(" and ")),
        (true, true) => "estimated".into(),
        (true, false) if found["base_alone"] == true => "the base alone".into(),
        (true, false) => "trained without it".into(),
    }
}

/// The shares, the largest first, and the commons with what is left.
fn table(receipt: &Receipt, contributors: &Value, own: Option<&str>) -> String {
    let mut table = Table::wrapping(&["CONTRIBUTOR", "SHARE", "OPEN", "KNOWN BY"]).within(WIDTH - INDENT);
    let (parts, commons) = percent::shares(receipt);
    let mut rows: Vec<(&Share, String)> = receipt.shares.iter().zip(parts).collect();
    rows.sort_by_key(|(share, _)| std::cmp::Reverse(share.weight));
    for (share, part) in rows {
        let account = share.account.to_string();
        let earned = paid(receipt, share).map_or_else(|| "-".into(), amount::exact);
        let you = if own == Some(account.as_str()) { " (you)" } else { "" };
        table.row([share.account.short() + you, part, earned, left_out(contributors, &account)]);
    }
    // The sums of a receipt that was checked do fit.
    let (of_fee, in_all, left) = contributors_part(receipt).unwrap_or_default();
    table.row(["the commons".into(), commons, amount::exact(left), "what is left".into()]);
    let whole: u64 =
        receipt.shares.iter().map(|share| u64::from(share.weight)).sum::<u64>() + u64::from(receipt.commons);
    table.row(["together".into(), text::percent(whole), amount::exact(in_all), String::new()]);
    let whole = format!(
        "That is the contributors' part, {of_fee} of the fee of {} OPEN. Who got the rest of it, and what the worker got: tributary \
         receipt why {}",
        amount::exact(receipt.fee()),
        receipt.id().short(),
    );
    table.render() + &text::wrapped(&whole, WIDTH - INDENT).join("\n") + "\n"
}

/// The records that helped most, and what all others have together.
fn helped(records: &Value) -> String {
    let rows = text::rows(&records["records"]);
    let shown = &rows[..rows.len().min(RECORDS_SHOWN)];
    if rows.is_empty() {
        return "None: there is no share of a contributor here that single records explain.\n".into();
    }
    let mut table = Table::wrapping(&["SHARE", "CONTRIBUTOR", "RECORD"]).within(WIDTH - INDENT);
    let mut rest = text::number(&records["helped_weight"]);
    for row in shown {
        let weight = text::number(&row["weight"]);
        rest = rest.saturating_sub(weight);
        let [prompt, completion] = [&row["prompt"], &row["completion"]].map(|text| beginning(text::field(text).trim()));
        let words = format!("{prompt} {completion}");
        table.row([text::percent(weight), text::short(&row["contributor"]), words]);
    }
    let others = text::number(&records["helped"]).saturating_sub(shown.len() as u64);
    if others > 0 {
        table.row([text::percent(rest), "-".into(), format!("{} together", text::counted(others, "other"))]);
    }
    let how = if records["exact"] == true { BACKWARDS } else { BY_GRADIENTS };
    let looked = format!(
        "{} of {} looked at, as parts of their contributors' shares; nobody is paid by it. {how}",
        text::grouped(text::number(&records["looked_at"])),
        text::counted(text::number(&records["admitted"]), "record"),
    );
    let parts = [magnified(records), table.render(), text::wrapped(&looked, WIDTH - INDENT).join("\n")];
    parts.concat() + "\n"
}

/// A warning where the training itself leaves little to be told of single records, to be read before they are.
fn magnified(records: &Value) -> String {
    let times = text::number(&records["magnified_permille"]);
    if records["exact"] != true || times < MAGNIFIED_PERMILLE {
        return String::new();
    }
    let warning = format!(
        "! Take this ranking as a hint at most: the training magnified small changes {} times on its way, so that what a single \
         record did is for the most part chance. Compare it with the ranking without --exact. A run with train \
         start --preset stable magnifies little.",
        text::grouped(times / 1_000)
    );
    text::wrapped(&warning, WIDTH - INDENT).join("\n") + "\n\n"
}

/// As much of a text as a few lines show.
fn beginning(words: &str) -> String {
    match words.char_indices().nth(WORDS_SHOWN) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words.to_owned(),
    }
}

/// How contributors' shares are known, as far as it is so for one of these.
fn left_out_how(contributors: &Value) -> String {
    let is_any = |is_so: fn(&Value) -> bool| text::rows(contributors).iter().any(is_so);
    let not_estimated = text::rows(contributors).iter().filter(|one| one["estimated"] == false).count();
    let together = is_any(|one| !text::rows(&one["together_with"]).is_empty());
    let special = [
        (together, TOGETHER),
        (together && not_estimated > OWN_ROWS_MAX, POOLED),
        (is_any(|one| one["estimated"] == true && text::rows(&one["together_with"]).is_empty()), ESTIMATED),
        (is_any(|one| one["base_alone"] == true), BASE_ALONE),
    ];
    let special = special.into_iter().filter(|(is_so, _)| *is_so).map(|(_, told)| told);
    std::iter::once(LEFT_OUT).chain(special).collect::<Vec<_>>().join(" ")
}

fn method(receipt: &Receipt, answer: &Value, contributors: &Value) -> String {
    let note = &receipt.attribution;
    let left_out = left_out_how(contributors);
    let told = match note.method.as_str() {
        "loco-delta" => left_out,
        "loco-delta+retrieval" => format!(
            "Records stood before the question. Each is paid for how much likelier it made the model to say exactly this, \
             and so is what the model was trained on, whose part is divided among its contributors; it was computed with \
             every choice of them (Shapley's value). {left_out}"
        ),
        _ => "This node does not know the method.".to_owned(),
    };
    let check = match answer["verdict"]["outcome"].as_str() {
        Some("confirmed") => "Another peer computed answer and shares again and found them equal.",
        Some("refuted") => "Another peer computed answer and shares again and found OTHERS: do not rely on them.",
        Some(_) => "Another peer could not check the answer.",
        None if text::rows(&answer["auditors"]).len() > 1 => {
            "For settlement, auditors who did not serve it computed answer and shares again: receipt why tells of each what was found."
        }
        None => {
            "No other peer has checked the answer: some are drawn for it, and every one asked with ask --check; answer verify \
             computes it again here."
        }
    };
    let by = format!(
        "Method {}, version {}, by index {}, published before the answer.",
        text::line(&note.method),
        note.version,
        note.index.short(),
    );
    let lines = [told.as_str(), NOT_RIGHT, check, &quality::told(note.quality), &by]
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
            "No passage of it is long enough to be called a quotation: short ones match by chance. Searched: {} words of {}.{skipped}",
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
    fn how_a_share_is_known_names_those_who_were_left_out_with_it() {
        let [one, two, three] = ["a", "b", "c"].map(|digit| digit.repeat(64));
        let of = |account: &str, estimated: bool, others: &[&String]| json!({"account": account, "estimated": estimated, "together_with": others});
        let contributors = json!([of(&one, true, &[&two]), of(&two, false, &[]), of(&three, true, &[])]);
        let known = [&one, &two, &three].map(|account| left_out(&contributors, account));
        assert_eq!(known, ["trained without it and bbbbbbbbbb", "trained without it", "estimated"]);
        assert_eq!(left_out(&Value::Null, &one), "-");
        let how = left_out_how(&contributors);
        assert!(how.contains(TOGETHER) && how.contains(ESTIMATED) && !how.contains(BASE_ALONE), "{how}");
        assert_eq!(left_out_how(&Value::Null), LEFT_OUT);
        assert!(!how.contains(POOLED));
        let many = |estimated: bool| (0..=OWN_ROWS_MAX).map(|_| of(&one, estimated, &[&two])).collect::<Value>();
        assert!(left_out_how(&many(false)).contains(POOLED) && !left_out_how(&many(true)).contains(POOLED));
    }

    #[test]
    fn records_that_helped_are_shown_with_what_the_others_have() {
        let row = |weight: u32, prompt: &str| json!({"weight": weight, "prompt": prompt, "completion": "a\u{1b}[2J", "contributor": "ab".repeat(32)});
        let rows: Vec<Value> = (0..7).map(|place| row(100_000, &format!("question {place}"))).collect();
        let records =
            json!({"records": rows, "helped": 9, "helped_weight": 800_000, "looked_at": 20, "admitted": 2_000});
        let mut exactly = records.clone();
        (exactly["exact"], exactly["magnified_permille"]) = (json!(true), json!(2_000));
        assert!(helped(&exactly).contains("backwards") && !helped(&exactly).contains("magnified"));
        exactly["magnified_permille"] = json!(48_000);
        let warned = helped(&exactly).replace('\n', " ");
        assert!(warned.starts_with("! ") && warned.contains("magnified small changes 48 times"), "{warned}");
        let shown = helped(&records);
        assert!(shown.contains("question 4") && !shown.contains("question 5") && !shown.contains('\u{1b}'), "{shown}");
        assert!(shown.contains("30.0 %") && shown.contains("4 others together") && shown.contains("20 of"), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= WIDTH - INDENT), "{shown}");
    }

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
