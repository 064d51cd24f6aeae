//! `tributary receipt`: who contributed what to a task, and who was paid.

pub(super) mod proof;
mod why;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};
use tributary_protocol::id::{Amount, ReceiptId};
use tributary_protocol::receipt::{Receipt, SignedReceipt};

use super::failure::{FAILED, Failure, VERIFICATION};
use super::output::{Context, Output};
use super::pick::RECEIPT;
use super::table::Table;
use super::{amount, text};
use crate::receiptfile;

#[derive(Debug, Subcommand)]
pub(crate) enum ReceiptCommand {
    /// List the receipts this node knows, the newest last.
    Ls,
    /// Print the receipt as the file that receipt verify takes.
    Show {
        /// Its id, or the beginning of it.
        id: String,
        /// Write it there instead.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Check a receipt file, offline: signatures, sums, form. Judge a proof that a receipt, release or index is false:
    /// sums and spans offline, weights, answers and rows by computing them again on this node.
    Verify {
        /// The file.
        file: PathBuf,
    },
    /// List the proofs of falsification that this node, or who checked its answers, has found.
    Proofs,
    /// Write a proof as the file that receipt verify judges. It shows the question and the answer's tokens.
    Proof {
        /// Its id, or the beginning of it, as receipt proofs and answer verify give it.
        id: String,
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Explain in plain words who earned what of a receipt, and why.
    Why {
        /// A receipt file, or a receipt's id, or the beginning of one.
        receipt: String,
    },
}

pub(super) async fn run(context: &Context, command: ReceiptCommand) -> Result<Output, Failure> {
    match command {
        ReceiptCommand::Ls => Ok(list(context.client.get("/api/receipts").await?)),
        ReceiptCommand::Show { id, out } => show(context, &id, out.as_deref()).await,
        ReceiptCommand::Verify { file } => {
            let bytes = read(&file)?;
            match proof::is_proof(&bytes) {
                true => proof::judge(context, &bytes).await,
                false => verify(&file, &bytes),
            }
        }
        ReceiptCommand::Proofs => Ok(proof::list(&context.client.get("/api/proofs").await?)),
        ReceiptCommand::Proof { id, out } => proof::save(context, &id, &out).await,
        ReceiptCommand::Why { receipt } => {
            let path = Path::new(&receipt);
            let is_path = path.is_file() || receipt.contains(['.', '/', '\\']);
            let bytes = if is_path { read(path)? } else { fetch(context, &receipt).await?.into_bytes() };
            let (id, signed) = checked(&bytes)?;
            Ok(why::explain(id, &signed.receipt, audited(context, &signed.receipt).await.as_ref()))
        }
    }
}

/// The receipt of what was audited, if this is an audit's and the node knows it.
async fn audited(context: &Context, audit: &Receipt) -> Option<Receipt> {
    let answer = fetch(context, &audit.audited()?.to_string()).await.ok()?;
    checked(answer.as_bytes()).ok().map(|(_, signed)| signed.receipt)
}

fn list(known: Value) -> Output {
    let mut rows: Vec<&Value> = text::rows(&known).iter().collect();
    rows.sort_by_key(|row| text::number(&row["finished_ms"]));
    let mut table = Table::new(&["RECEIPT", "FOR", "PAYER", "WORKER", "OPEN", "YOURS", "DATA BY", "FINISHED"]);
    for row in &rows {
        table.row([
            text::short(&row["id"]),
            if row["kind"] == "inference" { "answer".into() } else { text::field(&row["kind"]) },
            text::short(&row["payer"]),
            text::short(&row["worker"]),
            amount::brief(text::amount(&row["price"])),
            if text::amount(&row["own"]) > Amount::ZERO {
                amount::brief(text::amount(&row["own"]))
            } else {
                "-".into()
            },
            text::rows(&row["shares"]).len().to_string(),
            text::ago(text::number(&row["finished_ms"])),
        ]);
    }
    let next = rows.last().map(|row| format!("tributary receipt why {}", text::short(&row["id"])));
    let document: Value = rows.iter().map(|row| (*row).clone()).collect();
    let ids = text::ids(&document, "id");
    let output = Output::new(document, ids, table.render());
    match next {
        Some(next) => output.next(next),
        None => output.note("no receipt is known here").next("tributary ask \"…\""),
    }
}

/// The file of the receipt whose id begins so.
async fn fetch(context: &Context, given: &str) -> Result<String, Failure> {
    let id = match given.parse::<ReceiptId>() {
        Ok(id) => id.to_string(),
        Err(_) => {
            let known = context.client.get("/api/receipts").await?;
            text::field(&RECEIPT.find(&known, given)?["id"])
        }
    };
    Ok(context.client.get_text(&format!("/api/receipts/{id}")).await?)
}

async fn show(context: &Context, given: &str, out: Option<&Path>) -> Result<Output, Failure> {
    let file = fetch(context, given).await?;
    let (id, _) = checked(file.as_bytes())?;
    let ids = vec![id.to_string()];
    let Some(path) = out else {
        return Ok(Output { verbatim: true, ..Output::new(Value::Null, ids, file) });
    };
    std::fs::write(path, &file).map_err(|error| {
        Failure::new(FAILED, format!("{}: {error}", path.display()), "give --out a file that can be written")
    })?;
    let document = json!({"receipt": id, "file": path.display().to_string()});
    let note = format!("✓ receipt {} is in {}", id.short(), path.display());
    let next = format!("tributary receipt verify {}", path.display());
    Ok(Output::new(document, ids, String::new()).note(note).next(next))
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let hint = "give the file that tributary receipt show wrote";
    let unreadable = |error: std::io::Error| Failure::usage(format!("{}: {error}", file.display()), hint);
    let size = std::fs::metadata(file).map_err(unreadable)?;
    if size.len() > receiptfile::FILE_MAX_BYTES.max(proof::FILE_MAX_BYTES) {
        return Err(Failure::new(VERIFICATION, format!("{} is too large for a receipt", file.display()), hint));
    }
    std::fs::read(file).map_err(unreadable)
}

/// A receipt that holds, from its file.
pub(super) fn checked(bytes: &[u8]) -> Result<(ReceiptId, SignedReceipt), Failure> {
    receiptfile::verify(bytes).map_err(|error| Failure::new(VERIFICATION, error, "do not rely on this receipt"))
}

fn verify(file: &Path, bytes: &[u8]) -> Result<Output, Failure> {
    let (id, signed) = checked(bytes)?;
    let receipt = &signed.receipt;
    let document = json!({"valid": true, "id": id, "payer": receipt.payer, "worker": receipt.worker});
    let shown = format!(
        "valid receipt {id}\n  signed by payer {} and worker {}; shares and payments add up\n",
        receipt.payer.short(),
        receipt.worker.short(),
    );
    let next = format!("tributary receipt why {}", file.display());
    Ok(Output::new(document, vec![id.to_string()], shown).next(next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::USAGE;

    #[test]
    fn the_list_is_in_the_order_of_time() {
        let row = |id: &str, finished_ms: u64| json!({"id": id, "kind": "inference", "finished_ms": finished_ms});
        let output = list(json!([row("b", 2), row("a", 1)]));
        assert_eq!(output.ids, ["a", "b"]);
        assert_eq!(output.next.unwrap(), "tributary receipt why b");
        assert!(output.text.contains("answer"));
    }

    #[test]
    fn a_missing_file_is_usage_and_a_wrong_one_verification() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("receipt.json");
        assert_eq!(read(&file).unwrap_err().code, USAGE);
        assert_eq!(verify(&file, b"{}\n").unwrap_err().code, VERIFICATION);
        let large = std::fs::File::create(&file).unwrap();
        large.set_len(proof::FILE_MAX_BYTES + 1).unwrap();
        assert_eq!(read(&file).unwrap_err().code, VERIFICATION);
        assert_eq!(checked(&vec![b' '; 1 << 20]).unwrap_err().code, VERIFICATION);
    }
}
