//! A receipt in plain words: who earned what, and why.
//!
//! Invariant: every payment of the receipt is explained once, and their sum is shown beside the price.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tributary_protocol::attribution::WHOLE;
use tributary_protocol::economy::{self, BASIS_POINTS, Payment, PaymentRole};
use tributary_protocol::id::{AccountId, Amount, ReceiptId};
use tributary_protocol::receipt::{Receipt, Work};

use crate::cli::output::Output;
use crate::cli::table::{Table, WIDTH};
use crate::cli::{amount, quality, text};
use crate::percent;

/// Where reasons begin: behind the longest role.
const INDENT: usize = 13;

/// One payment with its reason.
struct Line {
    payment: Payment,
    account: Option<AccountId>,
    weight: Option<u32>,
    reason: String,
}

pub(super) fn explain(id: ReceiptId, receipt: &Receipt, answer: Option<&Receipt>) -> Output {
    let lines = lines(receipt);
    let sum = economy::total(&receipt.payments).unwrap_or(Amount::ZERO);
    let document = json!({
        "receipt": id,
        "kind": kind(receipt),
        "payer": receipt.payer,
        "price": receipt.price,
        "fee": receipt.fee(),
        "payments": lines.iter().map(line_json).collect::<Vec<Value>>(),
        "audited": receipt.audited(),
        "shares": receipt.shares,
        "commons": receipt.commons,
        "sum": sum,
        "sums_exact": sum == receipt.price,
    });
    let shown = match receipt.audited() {
        Some(of) => audit(receipt, of, answer),
        None => payments(receipt, &lines, sum),
    };
    Output::new(document, vec![id.to_string()], format!("{shown}Receipt {id}\n"))
}

/// Who paid what for what, payment by payment, and how the shares were found.
fn payments(receipt: &Receipt, lines: &[Line], sum: Amount) -> String {
    let first = format!(
        "{} paid {} OPEN for {}, finished {}.",
        receipt.payer.short(),
        amount::exact(receipt.price),
        work(receipt),
        text::ago(receipt.finished_ms),
    );
    let fee = format!("Of that, {} OPEN are the fee, which all but the worker divide.", amount::exact(receipt.fee()));
    let first = if receipt.fee() > Amount::ZERO { format!("{first} {fee}") } else { first };
    let mut shown = format!("{}\n\n", text::wrapped(&first, WIDTH).join("\n"));
    for line in lines {
        shown.push_str(&render(line));
    }
    let exactly = if sum == receipt.price { "exactly" } else { "not" };
    shown.push_str(&format!("\n{} OPEN in all: {exactly} the price.\n", amount::exact(sum)));
    if matches!(receipt.work, Work::Inference { .. }) {
        let (method, version) = (text::line(&receipt.attribution.method), receipt.attribution.version);
        let right = format!(
            "Shares by {method} version {version}, from an index published before the answer. {}",
            quality::told(receipt.attribution.quality)
        );
        shown.push_str(&format!("{}\n", text::wrapped(&right, WIDTH).join("\n")));
    }
    shown
}

/// Who audited which answer, what was found, and what follows from it.
fn audit(receipt: &Receipt, of: ReceiptId, answer: Option<&Receipt>) -> String {
    let first = format!(
        "{} had the answer of receipt {of} audited by {}, {}. Nobody is paid for it.",
        receipt.payer.short(),
        receipt.worker.short(),
        text::ago(receipt.finished_ms),
    );
    let [first, second, last] = [&first, AUDIT, FOLLOWS].map(|part| text::wrapped(part, WIDTH).join("\n"));
    format!("{first}\n\n{second}\n\n{}\n{last}\n", audit_shares(receipt, answer))
}

/// What an audit is for.
const AUDIT: &str =
    "The chain drew the answer for an audit. Shares by the models that were really trained without each:";
/// What follows from it.
const FOLLOWS: &str = "Once a second auditor finds the same, what the answer paid somebody too little is given to him in the \
                       epochs after, and what it paid too much is taken off what he earns then: sixteen times the difference, \
                       since one answer in sixteen is drawn. The wallet shows the sum under audits.";

/// The shares that an audit found, beside those that the answer paid where they are known.
fn audit_shares(audit: &Receipt, answer: Option<&Receipt>) -> String {
    let weight = |receipt: &Receipt, account: &AccountId| {
        receipt.shares.iter().find(|share| share.account == *account).map_or(0, |share| share.weight)
    };
    let percent = |weight: Option<u32>| weight.map_or_else(|| "-".into(), |weight| text::percent(weight.into()));
    let shares = audit.shares.iter().chain(answer.into_iter().flat_map(|answer| &answer.shares));
    let accounts: BTreeSet<AccountId> = shares.map(|share| share.account).collect();
    let mut table = Table::new(&["CONTRIBUTOR", "PAID", "FOUND"]);
    for account in &accounts {
        let paid = answer.map(|answer| weight(answer, account));
        table.row([account.short(), percent(paid), percent(Some(weight(audit, account)))]);
    }
    table.row(["nobody".into(), percent(answer.map(|answer| answer.commons)), percent(Some(audit.commons))]);
    table.render()
}

fn kind(receipt: &Receipt) -> &'static str {
    match receipt.work {
        Work::Training { .. } => "training",
        Work::Inference { .. } => "inference",
        Work::Audit { .. } => "audit",
    }
}

fn work(receipt: &Receipt) -> String {
    match &receipt.work {
        Work::Training { steps, leave_out, .. } if leave_out.is_empty() => format!("a training of {steps} steps"),
        Work::Training { steps, leave_out, .. } => {
            let accounts: Vec<String> = leave_out.iter().map(AccountId::short).collect();
            format!("a training of {steps} steps without the records of {}", accounts.join(" and "))
        }
        Work::Inference { answer_tokens, .. } => {
            format!("an answer of {}", text::counted((*answer_tokens).into(), "token"))
        }
        Work::Audit { of } => format!("an audit of the answer of receipt {of}"),
    }
}

fn line_json(line: &Line) -> Value {
    json!({
        "role": line.payment.role,
        "to": line.payment.to,
        "account": line.account,
        "amount": line.payment.amount,
        "weight": line.weight,
        "why": line.reason,
    })
}

fn render(line: &Line) -> String {
    let role = match line.payment.role {
        PaymentRole::Worker => "worker",
        PaymentRole::Treasury => "treasury",
        PaymentRole::Builder => "builder",
        PaymentRole::Verifier => "verifier",
        PaymentRole::Contributor => "contributor",
    };
    // An address is told from an account by how it begins.
    let who = line.account.map_or_else(|| format!("0x{}", line.payment.to.short()), |account| account.short());
    let mut shown = format!("{role:<INDENT$}{who}  {} OPEN\n", amount::exact(line.payment.amount));
    for part in text::wrapped(&line.reason, WIDTH - INDENT) {
        shown.push_str(&format!("{:INDENT$}{part}\n", ""));
    }
    shown
}

/// The payments in their order; a contributor's is matched with the share it was made from.
fn lines(receipt: &Receipt) -> Vec<Line> {
    let (parts, commons) = percent::shares(receipt);
    let mut shares = receipt.shares.iter().zip(parts);
    receipt
        .payments
        .iter()
        .map(|payment| {
            let share = match payment.role {
                PaymentRole::Contributor => shares.find(|(share, _)| share.payout == payment.to),
                _ => None,
            };
            let account = match payment.role {
                PaymentRole::Worker => Some(receipt.worker),
                _ => share.as_ref().map(|(share, _)| share.account),
            };
            let weight = share.as_ref().map(|(share, _)| share.weight);
            let part = share.map_or_else(|| commons.clone(), |(_, part)| part);
            Line { payment: *payment, account, weight, reason: reason(receipt, payment.role, &part) }
        })
        .collect()
}

fn of_fee(basis_points: u16) -> String {
    text::percent(u64::from(basis_points) * u64::from(WHOLE) / u64::from(BASIS_POINTS))
}

/// Why; `part` is what a contributor, or the commons, has of the contributors' part.
fn reason(receipt: &Receipt, role: PaymentRole, part: &str) -> String {
    match role {
        PaymentRole::Worker => worker_reason(receipt),
        PaymentRole::Builder => format!("made the model: {} of the fee", of_fee(receipt.policy.builder_bps)),
        PaymentRole::Verifier => verifier_reason(receipt),
        PaymentRole::Contributor => format!("{part} of the contributors' part, for this account's records"),
        PaymentRole::Treasury => treasury_reason(receipt, part),
    }
}

fn worker_reason(receipt: &Receipt) -> String {
    match &receipt.work {
        Work::Training { steps, .. } => format!("computed {steps} training steps: its own price"),
        Work::Inference { prompt_tokens, answer_tokens, .. } => {
            format!("read {prompt_tokens} tokens and wrote {answer_tokens}: its own price")
        }
        Work::Audit { .. } => {
            "computed the answer again by all models trained without a contributor; nobody pays for it".into()
        }
    }
}

fn verifier_reason(receipt: &Receipt) -> String {
    let part = of_fee(receipt.policy.verifier_bps);
    if receipt.to.verifier == receipt.to.treasury {
        return format!("{part} of the fee; to the treasury, since nobody was to check");
    }
    match &receipt.work {
        Work::Training { segments_checked, .. } => {
            format!("executed {} of it again: {part} of the fee", text::counted((*segments_checked).into(), "segment"))
        }
        Work::Inference { .. } | Work::Audit { .. } => {
            format!("chosen to check the computation, whether or not it is asked to: {part} of the fee")
        }
    }
}

fn treasury_reason(receipt: &Receipt, commons: &str) -> String {
    let part = of_fee(receipt.policy.treasury_bps);
    match &receipt.work {
        Work::Training { .. } => format!("the network's {part} of the fee, and what rounding left"),
        Work::Inference { .. } | Work::Audit { .. } => format!(
            "the network's {part} of the fee, and of the contributors' part the {commons} that no contributor alone explains, and what rounding left",
        ),
    }
}

#[cfg(test)]
mod tests {
    use tributary_protocol::attribution::{Share, commons_weight};
    use tributary_protocol::economy::{Beneficiaries, FeePolicy};
    use tributary_protocol::id::{ChainAddress, DatanetId, Hash, NodeId, TaskId};
    use tributary_protocol::receipt::AttributionNote;

    use super::*;

    fn receipt() -> Receipt {
        let address = |byte| ChainAddress([byte; 20]);
        let share = |byte, weight| Share { account: AccountId([byte; 32]), payout: address(byte), weight };
        let shares = vec![share(0x0a, 623_000), share(0x0b, 0), share(0x0c, 200_000)];
        let to = Beneficiaries { worker: address(1), treasury: address(2), builder: address(3), verifier: address(2) };
        let (price, worker_part) = (Amount(60_000_000_000_000_001), Amount(10_000_000_000_000_000));
        let policy = FeePolicy::INFERENCE;
        Receipt {
            network: Hash([0; 32]),
            task: TaskId([0; 32]),
            payer: AccountId([7; 32]),
            worker: AccountId([8; 32]),
            worker_node: NodeId([8; 32]),
            base: Hash([0; 32]),
            datanet: DatanetId([0; 32]),
            head: Hash([0; 32]),
            work: Work::Inference {
                adapter: Hash([0; 32]),
                prompt: Hash([0; 32]),
                answer: Hash([0; 32]),
                prompt_tokens: 40,
                answer_tokens: 23,
                seed: 0,
                fingerprints: Hash([0; 32]),
                logprobs: None,
                transcript: Hash([0; 32]),
            },
            class: "test".into(),
            attribution: AttributionNote {
                method: "loco-delta".into(),
                version: 1,
                index: Hash([0; 32]),
                contributors: Hash([0; 32]),
                quality: None,
            },
            commons: commons_weight(&shares).unwrap(),
            payments: economy::split(price, worker_part, policy, &to, &shares).unwrap(),
            shares,
            price,
            worker_part,
            policy,
            to,
            sequence: 1,
            finished_ms: 0,
        }
    }

    #[test]
    fn every_payment_is_explained_and_the_sum_is_the_price() {
        let receipt = receipt();
        let output = explain(receipt.id(), &receipt, None);
        assert_eq!(output.document["payments"].as_array().unwrap().len(), receipt.payments.len());
        assert_eq!(output.document["sums_exact"], true);
        for part in [
            "read 40 tokens and wrote 23",
            "made the model: 25.0 % of the fee",
            "nobody was to check",
            "62.3 % of the contributors' part",
            "20.0 % of the contributors' part",
            "17.7 %",
            "0.060000000000000001 OPEN in all: exactly the price",
        ] {
            assert!(output.text.contains(part), "{part} is missing in\n{}", output.text);
        }
        assert!(output.text.lines().all(|line| line.chars().count() <= 80), "{}", output.text);
    }

    #[test]
    fn a_payment_goes_to_the_account_of_its_own_share() {
        let receipt = receipt();
        let document = explain(receipt.id(), &receipt, None).document;
        let contributors: Vec<&Value> =
            document["payments"].as_array().unwrap().iter().filter(|line| line["role"] == "contributor").collect();
        assert_eq!(contributors.len(), 2);
        assert_eq!(contributors[1]["account"], json!(AccountId([0x0c; 32])));
        assert_eq!(contributors[1]["weight"], 200_000);
    }

    #[test]
    fn an_audit_is_shown_beside_what_the_answer_paid() {
        let answer = receipt();
        let found = vec![Share { weight: 250_000, ..answer.shares[0] }];
        let audit = Receipt {
            work: Work::Audit { of: answer.id() },
            commons: commons_weight(&found).unwrap(),
            shares: found,
            price: Amount::ZERO,
            worker_part: Amount::ZERO,
            payments: Vec::new(),
            ..answer.clone()
        };
        let output = explain(audit.id(), &audit, Some(&answer));
        let line = output.text.lines().find(|line| line.starts_with(&answer.shares[0].account.short())).unwrap();
        let paid = text::percent(answer.shares[0].weight.into());
        assert!(line.contains(&paid) && line.contains("25.0 %"), "{}", output.text);
        assert!(output.text.contains("sixteen"), "{}", output.text);
        assert!(output.text.lines().all(|line| line.chars().count() <= WIDTH), "{}", output.text);
        assert_eq!(output.document["audited"], json!(answer.id()));
        let unknown = explain(audit.id(), &audit, None).text;
        assert!(unknown.lines().any(|line| line.starts_with("nobody") && line.contains(" -")), "{unknown}");
    }
}
