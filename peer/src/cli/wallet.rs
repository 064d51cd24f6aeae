//! `tributary wallet`: what this node holds, has spent and may collect.

use clap::Subcommand;
use serde_json::{Value, json};
use tributary_protocol::id::{Amount, ChainAddress};

use super::failure::{FUNDS, Failure, UNREACHABLE};
use super::output::{Context, Output};
use super::{amount, spend, text};

#[derive(Debug, Subcommand)]
pub(crate) enum WalletCommand {
    /// Show balance, earnings, what may be collected and what was spent.
    Show,
    /// Send OPEN to an address.
    Send {
        /// The address, 40 hexadecimal digits with or without 0x.
        #[arg(value_parser = address)]
        to: ChainAddress,
        /// How much, in OPEN: 2.5.
        #[arg(value_parser = amount::parse)]
        amount: Amount,
    },
    /// Collect what payers have promised for work: their vouchers, through the escrow contract.
    Redeem,
    /// Collect what data, models, checks and the treasury have earned in anchored epochs.
    Claim,
}

/// An address with or without `0x`, in any case.
fn address(text: &str) -> Result<ChainAddress, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text).to_ascii_lowercase();
    digits.parse().map_err(|error: tributary_protocol::id::ParseIdError| error.to_string())
}

pub(super) async fn run(context: &Context, command: WalletCommand) -> Result<Output, Failure> {
    let wallet = context.client.get("/api/wallet").await?;
    match command {
        WalletCommand::Show => Ok(show(wallet)),
        WalletCommand::Send { to, amount } => send(context, &wallet, to, amount).await,
        WalletCommand::Redeem => redeem(context, answering(&wallet)?).await,
        WalletCommand::Claim => claim(context, answering(&wallet)?).await,
    }
}

/// The wallet, where what it holds can be known: without the chain nobody knows what of it was collected before.
fn answering(wallet: &Value) -> Result<&Value, Failure> {
    if wallet["chain_state"] != "down" {
        return Ok(wallet);
    }
    let error = &wallet["chain_error"]["error"];
    let what = error["message"].as_str().map_or_else(|| "the settlement chain does not answer".into(), text::line);
    let hint = error["hint"].as_str().unwrap_or("try again when the node that serves it is up; nothing is lost");
    Err(Failure::new(UNREACHABLE, what, hint))
}

fn open(amount: Amount) -> String {
    format!("{} OPEN", amount::exact(amount))
}

fn sum(amounts: impl Iterator<Item = Amount>) -> Amount {
    amounts.fold(Amount::ZERO, |sum, amount| Amount(sum.0.saturating_add(amount.0)))
}

/// What vouchers promise beyond what they paid.
fn redeemable(wallet: &Value) -> Amount {
    let open =
        |voucher: &Value| text::amount(&voucher["cumulative"]).0.saturating_sub(text::amount(&voucher["redeemed"]).0);
    sum(text::rows(&wallet["vouchers"]).iter().map(|voucher| Amount(open(voucher))))
}

/// What vouchers have paid.
fn redeemed(wallet: &Value) -> Amount {
    sum(text::rows(&wallet["vouchers"]).iter().map(|voucher| text::amount(&voucher["redeemed"])))
}

/// What this node still owes for work and fees.
fn owed(wallet: &Value) -> Amount {
    let debts = text::rows(&wallet["owed_to_others"]).iter();
    sum(debts.flat_map(|debt| [text::amount(&debt["worker_part"]), text::amount(&debt["fees"])]))
}

fn show(wallet: Value) -> Output {
    let vouchers = u64::try_from(text::rows(&wallet["vouchers"]).len()).unwrap_or(u64::MAX);
    let mut pairs =
        vec![("address", text::field(&wallet["chain_address"])), ("account", text::field(&wallet["account"]))];
    let is_up = wallet["chain_state"] == "up";
    if is_up {
        pairs.push(("balance", open(text::amount(&wallet["balance"]))));
        let is_behind = wallet["behind"] == true;
        let earned = format!("{} in epochs so far", open(text::amount(&wallet["earned"])));
        pairs.push(("earned", if is_behind { BEHIND.into() } else { earned }));
        pairs.extend(audited(&wallet).filter(|_| !is_behind).map(|text| ("audits", text)));
        pairs.push(("for work", format!("{} redeemed so far", open(redeemed(&wallet)))));
        let claimable = format!("{} now", open(text::amount(&wallet["claimable"])));
        pairs.push(("to claim", if is_behind { BEHIND.into() } else { claimable }));
        let waiting = if is_behind { Amount::ZERO } else { text::amount(&wallet["waiting"]) };
        if waiting > Amount::ZERO {
            pairs.push(("not yet", format!("{} in receipts that no epoch counts", open(waiting))));
        }
        pairs.push(("next epoch", next_epoch(&wallet)));
    }
    let least = if wallet["chain_state"] == "down" { "at most " } else { "" };
    pairs
        .push(("to redeem", format!("{least}{} of {}", open(redeemable(&wallet)), text::counted(vouchers, "voucher"))));
    let debts = u64::try_from(text::rows(&wallet["owed_to_others"]).len()).unwrap_or(u64::MAX);
    pairs.push((
        "owed",
        format!("{least}{} to {}, not collected yet", open(owed(&wallet)), text::counted(debts, "worker")),
    ));
    pairs.push(("spent", format!("{} so far, owed or paid", open(text::amount(&wallet["spent"])))));
    let next = if is_up && redeemable(&wallet) > Amount::ZERO {
        Some("tributary wallet redeem")
    } else if text::amount(&wallet["claimable"]) > Amount::ZERO {
        Some("tributary wallet claim")
    } else {
        None
    };
    let (shown, ids) = (text::fields(&pairs), vec![text::field(&wallet["chain_address"])]);
    let state = match wallet["chain_state"].as_str() {
        Some("none") => Some("! this network has no settlement chain: amounts stand in receipts, nothing is paid"),
        Some("down") => Some("! the settlement chain does not answer: balances are not known now; nothing is lost"),
        _ => None,
    };
    let mut output = Output::new(wallet, ids, shown);
    output.notes.extend(state.map(str::to_owned));
    output.next = next.map(str::to_owned);
    output
}

/// What is not known while the newest epoch is fetched.
const BEHIND: &str = "not known yet: the newest epoch is being fetched, which takes seconds";

/// What audits of answers changed in what the receipts pay, if anything.
fn audited(wallet: &Value) -> Option<String> {
    let [gave, took] = ["audits_gave", "audits_took"].map(|field| text::amount(&wallet[field]));
    if gave > Amount::ZERO {
        return Some(format!("{} of that more than the receipts say", open(gave)));
    }
    (took > Amount::ZERO).then(|| format!("{} less than the receipts say", open(took)))
}

/// When what is earned can be claimed.
fn next_epoch(wallet: &Value) -> String {
    const FUNDED: &str = "when fees have arrived: workers redeem their vouchers first";
    match (wallet["next_epoch_in_ms"].as_u64(), text::number(&wallet["posters"])) {
        (Some(in_ms), _) => format!("posted here in {} s, {FUNDED}", in_ms.div_ceil(1_000)),
        (None, 0) => "nobody posts epochs: start a node with tributary up --roles poster".into(),
        (None, posters) => format!("posted by {}, {FUNDED}", text::counted(posters, "other node")),
    }
}

async fn send(context: &Context, wallet: &Value, to: ChainAddress, amount: Amount) -> Result<Output, Failure> {
    if amount == Amount::ZERO {
        return Err(Failure::usage("there is nothing to send", "give an amount above 0"));
    }
    let mut lines = vec![format!("send {} to {to}", open(amount))];
    if wallet["chain_state"] == "up" {
        let have = text::amount(&wallet["balance"]);
        let Some(left) = have.checked_sub(amount) else {
            let reason = format!("the wallet holds {}, {} are to be sent", open(have), open(amount));
            return Err(Failure::new(
                FUNDS,
                reason,
                "send less, or collect first: tributary wallet redeem, wallet claim",
            ));
        };
        lines.push(format!("the wallet then holds {}", open(left)));
    }
    let body = json!({"to": to, "amount": amount});
    if let Some(end) = spend::preview(context, body.clone(), &lines, "Send?")? {
        return Ok(end);
    }
    let sent = context.client.post("/api/wallet/send", &body).await?;
    let id = text::field(&sent["transaction"]);
    let shown = format!("{id}\n");
    let note = format!("✓ sent {}", open(amount));
    Ok(Output::new(sent, vec![id], shown).note(note).next("tributary wallet show"))
}

async fn redeem(context: &Context, wallet: &Value) -> Result<Output, Failure> {
    let promised = redeemable(wallet);
    // Who works for himself asks himself for nothing, and owes the fees all the same.
    let fees = sum(text::rows(&wallet["vouchers"]).iter().map(|voucher| text::amount(&voucher["fees"])));
    if promised == Amount::ZERO && fees == Amount::ZERO {
        return Ok(Output::new(json!({"redeemed": promised, "fees": promised}), Vec::new(), String::new())
            .note("no payer owes a voucher: there is nothing to redeem"));
    }
    let lines = [format!("redeem {} that payers promised, and {} of fees", open(promised), open(fees))];
    if let Some(end) = spend::preview(context, json!({"redeem": promised}), &lines, "Redeem?")? {
        return Ok(end);
    }
    let done = context.client.post("/api/wallet/redeem", &json!({})).await?;
    let shown = text::fields(&[
        ("redeemed", open(text::amount(&done["redeemed"]))),
        ("fees", format!("{} moved to the distributor", open(text::amount(&done["fees"])))),
    ]);
    Ok(Output::new(done, Vec::new(), shown).next("tributary wallet show"))
}

async fn claim(context: &Context, wallet: &Value) -> Result<Output, Failure> {
    let (claimable, promised) = (text::amount(&wallet["claimable"]), redeemable(wallet));
    let mut lines = vec![
        format!("claim {} earned in anchored epochs", open(claimable)),
        "  and what the treasury has earned, where this node keeps its key".to_owned(),
    ];
    if promised > Amount::ZERO {
        lines.push(format!("redeem {} that payers promised before that:", open(promised)));
        lines.push("  the fees in it arrive with it".to_owned());
    }
    let document = json!({"claim": claimable, "redeem": promised});
    // What the treasury earned isn't known here: with nothing of one's own it is worth a try, and no question.
    let is_asked = context.dry_run || claimable > Amount::ZERO || promised > Amount::ZERO;
    if is_asked && let Some(end) = spend::preview(context, document, &lines, "Claim?")? {
        return Ok(end);
    }
    let done = context.client.post("/api/wallet/claim", &json!({})).await?;
    let mut pairs = vec![("claimed", open(text::amount(&done["claimed"])))];
    let of_treasury = text::amount(&done["treasury"]);
    if of_treasury > Amount::ZERO {
        pairs.push(("of that", format!("{} to the treasury's own address", open(of_treasury))));
    }
    if text::amount(&done["redeemed"]) > Amount::ZERO {
        pairs.push(("redeemed", open(text::amount(&done["redeemed"]))));
    }
    let shown = text::fields(&pairs);
    let reason = done["reason"].as_str().map(text::line);
    let mut output = Output::new(done, Vec::new(), shown).next("tributary wallet show");
    output.notes.extend(reason);
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "1000000000000000000";

    #[test]
    fn addresses_may_be_written_as_others_write_them() {
        let plain = "ab".repeat(20);
        assert_eq!(address(&plain).unwrap(), ChainAddress([0xab; 20]));
        assert_eq!(address(&format!("0x{}", plain.to_uppercase())).unwrap(), ChainAddress([0xab; 20]));
        assert!(address("0xab").is_err() && address(&"zz".repeat(20)).is_err());
    }

    #[test]
    fn what_was_collected_before_is_not_promised_again_while_the_chain_is_silent() {
        let error = json!({"error": {"message": "cannot reach the chain", "hint": "start it"}});
        let mut wallet = json!({"chain_state": "down", "chain_error": error, "vouchers": [{"cumulative": ONE}]});
        let failure = answering(&wallet).unwrap_err();
        assert_eq!((failure.code, failure.message.as_str()), (UNREACHABLE, "cannot reach the chain"));
        assert!(show(wallet.clone()).text.contains("at most 1 OPEN of 1 voucher"));
        wallet["chain_state"] = json!("up");
        assert!(answering(&wallet).is_ok());
    }

    #[test]
    fn a_wallet_shows_what_can_be_collected() {
        let wallet = json!({
            "chain_address": "aa", "account": "bb", "chain_state": "up", "balance": ONE, "earned": ONE, "claimable": "0",
            "vouchers": [{"cumulative": "3000000000000000000", "redeemed": ONE}],
            "owed_to_others": [{"worker_part": ONE, "fees": "500000000000000000"}], "spent": "4000000000000000000",
            "waiting": "250000000000000000", "next_epoch_in_ms": 41_500, "posters": 0,
        });
        let output = show(wallet);
        assert!(output.text.contains("to redeem   2 OPEN of 1 voucher\n"), "{}", output.text);
        for line in [
            "earned      1 OPEN in epochs so far",
            "for work    1 OPEN redeemed so far",
            "owed        1.5 OPEN to 1 worker",
            "spent       4 OPEN",
            "not yet     0.25 OPEN",
            "next epoch  posted here in 42 s",
        ] {
            assert!(output.text.contains(line), "{line} is missing in\n{}", output.text);
        }
        assert_eq!(output.next.unwrap(), "tributary wallet redeem");
    }

    #[test]
    fn a_wallet_whose_newest_epoch_is_not_here_says_so_instead_of_nothing() {
        let wallet = json!({"chain_state": "up", "earned": "0", "claimable": "0", "waiting": ONE, "behind": true});
        let text = show(wallet).text;
        assert!(text.contains("earned     not known yet") || text.contains("earned      not known yet"), "{text}");
        assert!(!text.contains("not yet  ") && !text.contains("0 OPEN in epochs"), "{text}");
    }

    #[test]
    fn a_wallet_says_what_audits_changed() {
        let mut wallet = json!({"audits_gave": "0", "audits_took": "0"});
        assert_eq!(audited(&wallet), None);
        wallet["audits_gave"] = json!(ONE);
        assert_eq!(audited(&wallet).unwrap(), "1 OPEN of that more than the receipts say");
        wallet = json!({"audits_gave": "0", "audits_took": ONE});
        assert_eq!(audited(&wallet).unwrap(), "1 OPEN less than the receipts say");
    }

    #[test]
    fn a_wallet_says_who_posts_epochs() {
        assert!(next_epoch(&json!({"next_epoch_in_ms": null, "posters": 0})).contains("--roles poster"));
        assert!(next_epoch(&json!({"next_epoch_in_ms": null, "posters": 1})).contains("1 other node"));
    }

    #[test]
    fn a_wallet_without_a_chain_says_so() {
        let output = show(json!({"chain_state": "none", "vouchers": [], "owed_to_others": []}));
        assert!(output.notes[0].contains("no settlement chain") && !output.text.contains("balance"));
    }
}
