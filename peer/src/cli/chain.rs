//! `tributary chain`: the settlement chain this network pays on.

use std::net::SocketAddr;

use clap::Subcommand;
use serde_json::{Value, json};

use super::failure::{Failure, UNREACHABLE};
use super::output::{Context, Output, emit};
use super::{amount, start, text};
use crate::chainserve;
use crate::home::Home;
use crate::up::Signals;

#[derive(Debug, Subcommand)]
pub(crate) enum ChainCommand {
    /// Show whether the chain answers, its contracts, and where all money is.
    Status,
    /// Serve the settlement chain of this node's folder, and nothing else, until interrupted.
    Serve {
        /// The loopback address to serve JSON-RPC on.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8545")]
        address: SocketAddr,
        /// The name of the network to begin when the folder belongs to none.
        #[arg(long, default_value = "tributary")]
        network: String,
    },
}

pub(super) async fn run(context: &Context, command: ChainCommand) -> Result<Output, Failure> {
    match command {
        ChainCommand::Status => status(context).await,
        ChainCommand::Serve { address, network } => {
            context.no_preview("chain serve")?;
            serve(context, address, &network).await.map_err(start::failure)?;
            Ok(Output { verbatim: true, ..Output::default() })
        }
    }
}

async fn status(context: &Context) -> Result<Output, Failure> {
    let status = context.client.get("/api/status").await?;
    let chain = status["chain"].clone();
    match chain["state"].as_str() {
        Some("up") => Ok(show(chain, context.client.get("/api/chain/totals").await?)),
        Some("down") => {
            let reason = format!("the settlement chain at {} does not answer", text::field(&chain["url"]));
            let hint = "start the node that serves it; nothing is lost, payments go on when it is back";
            Err(Failure::new(UNREACHABLE, reason, hint))
        }
        _ => {
            let note = "this network has no settlement chain: amounts stand in receipts, nothing is paid";
            let next = "tributary up --serve-chain 8545";
            Ok(Output::new(json!({"chain": chain}), Vec::new(), String::new()).note(note).next(next))
        }
    }
}

fn show(chain: Value, totals: Value) -> Output {
    let open = |name: &str| format!("{} OPEN", amount::exact(text::amount(&totals[name])));
    let contract = |name: &str| text::field(&chain["deployment"][name]);
    let balance =
        if totals["balance"] == true { "deposits = claims + remaining, exactly" } else { "they do NOT balance" };
    let served = if chain["served"].is_string() { " (served by this node)" } else { "" };
    let shown = text::fields(&[
        ("chain", format!("{}{served}", text::field(&chain["url"]))),
        ("chain id", text::number(&chain["chain_id"]).to_string()),
        ("token", contract("token")),
        ("registry", contract("registry")),
        ("escrow", contract("escrow")),
        ("anchor", contract("anchor")),
        ("distributor", contract("distributor")),
        ("deposits", open("deposits")),
        ("claims", open("claims")),
        ("remaining", format!("{}; {balance}", open("remaining"))),
    ]);
    let ids = vec![text::number(&chain["chain_id"]).to_string()];
    Output::new(json!({"chain": chain, "totals": totals}), ids, shown)
}

async fn serve(context: &Context, address: SocketAddr, network: &str) -> anyhow::Result<()> {
    let home = Home::open(&context.data_dir)?;
    let keys = home.keys()?;
    let known = home.network(network, &keys.chain)?;
    let (server, notice) = chainserve::serve(&home, keys.chain, address, false).await?;
    let document = json!({"url": notice.url, "deployment": notice.deployment});
    let mut noted = known;
    noted.chain = Some(notice);
    home.save("network.json", &noted)?;
    let line = if context.json { format!("{document}\n") } else { format!("{}\n", server.url()) };
    emit(&line).map_err(|failure| anyhow::anyhow!(failure.message))?;
    context.say("✓ serves until interrupted; invitations to this network name this chain");
    Signals::watch()?.next().await;
    context.say("stopping");
    server.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_books_are_shown_with_their_balance() {
        let chain = json!({"state": "up", "url": "http://127.0.0.1:1", "chain_id": 7, "deployment": {"token": "aa"}});
        let totals = |balance: bool| {
            json!({"deposits": "3000000000000000000", "claims": "1000000000000000000", "remaining": "2000000000000000000",
                   "balance": balance})
        };
        let output = show(chain.clone(), totals(true));
        assert!(output.text.contains("deposits     3 OPEN") && output.text.contains("exactly"), "{}", output.text);
        assert!(show(chain, totals(false)).text.contains("do NOT balance"));
    }
}
