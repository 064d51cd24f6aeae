//! `tributary net`: peers, invitations, joining.

use clap::Subcommand;
use serde_json::{Value, json};

use super::failure::Failure;
use super::output::{Context, Output};
use super::table::Table;
use super::{amount, node, text};
use crate::client::ClientError;
use crate::home::Ticket;

#[derive(Debug, Subcommand)]
pub(crate) enum NetCommand {
    /// List the peers this node knows.
    Ls,
    /// Print a ticket with which another machine joins this network.
    Invite,
    /// Meet the peers of a ticket of this node's network.
    Join {
        /// What tributary net invite printed.
        ticket: String,
    },
}

pub(super) async fn run(context: &Context, command: NetCommand) -> Result<Output, Failure> {
    match command {
        NetCommand::Ls => Ok(list(context.client.get("/api/peers").await?)),
        NetCommand::Invite => Ok(invite(context.client.get("/api/net/invite").await?)),
        NetCommand::Join { ticket } => {
            context.no_preview("net join")?;
            join(context, &ticket).await
        }
    }
}

fn list(peers: Value) -> Output {
    let mut table = Table::new(&["PEER", "ACCOUNT", "ROLES", "LINK", "HEARD", "SERVES", "ANSWER"]);
    for peer in text::rows(&peers) {
        let heard = text::duration(text::number(&peer["heard_ms_ago"]));
        table.row([
            text::short(&peer["node"]),
            text::short(&peer["account"]),
            node::roles(&peer["roles"]),
            if peer["connected"] == true { "direct".into() } else { "-".into() },
            format!("{heard} ago"),
            text::rows(&peer["serving"]).len().to_string(),
            format!("{} OPEN", amount::brief(text::amount(&peer["answer_price"]))),
        ]);
    }
    let is_alone = text::rows(&peers).is_empty();
    let output = Output::new(peers.clone(), text::ids(&peers, "node"), table.render());
    if is_alone {
        output.note("no peers are known yet").next("tributary net invite, for a second machine")
    } else {
        output
    }
}

fn invite(made: Value) -> Output {
    let ticket = text::field(&made["ticket"]);
    let shown = format!("{ticket}\n");
    let reach = reach(&ticket);
    let mut output = Output::new(made, vec![ticket], shown).next("on the other machine: tributary up --join TICKET");
    output.notes.extend(reach.into_iter().map(str::to_owned));
    output
}

/// What other machines cannot reach by this ticket.
fn reach(ticket: &str) -> Vec<&'static str> {
    let Ok(ticket) = Ticket::from_text(ticket) else { return Vec::new() };
    let is_local = |address: &String| address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/");
    let mut notes = Vec::new();
    if ticket.bootstrap.iter().all(is_local) {
        notes.push("! the ticket works on this machine only: for others, run tributary up --listen ADDRESS");
    }
    if ticket.network.chain.is_some_and(|chain| chain.url.contains("://127.") || chain.url.contains("://[::1]")) {
        notes.push("! the settlement chain is served to this machine only: for others, serve it with tributary up --listen ADDRESS --serve-chain");
    }
    notes
}

async fn join(context: &Context, ticket: &str) -> Result<Output, Failure> {
    let hint = "get a ticket with tributary net invite on a node of the network, and copy it as a whole";
    Ticket::from_text(ticket).map_err(|reason| Failure::usage(reason, hint))?;
    let joined = match context.client.post("/api/net/join", &json!({"ticket": ticket})).await {
        Ok(joined) => joined,
        Err(error @ ClientError::NodeDown { .. }) => {
            let failure = Failure::from(error);
            return Err(Failure { hint: "start it with tributary up --join TICKET".into(), ..failure });
        }
        Err(error) => return Err(error.into()),
    };
    let note = format!("✓ met {} of the ticket", text::counted(text::number(&joined["peers"]), "peer"));
    Ok(Output::new(joined, Vec::new(), String::new()).note(note).next("tributary net ls"))
}

#[cfg(test)]
mod tests {
    use tributary_protocol::id::ChainAddress;

    use super::*;
    use crate::home::NetworkNotice;

    #[test]
    fn a_ticket_for_this_machine_only_says_so() {
        let network = NetworkNotice { name: "net".into(), treasury: ChainAddress([1; 20]), chain: None };
        let ticket = |address: &str| Ticket { network: network.clone(), bootstrap: vec![address.into()] }.to_text();
        assert_eq!(reach(&ticket("/ip4/127.0.0.1/tcp/1")).len(), 1);
        assert!(reach(&ticket("/ip4/192.0.2.7/tcp/1")).is_empty());
    }

    #[test]
    fn peers_fit_a_terminal_and_keep_whole_ids_for_programs() {
        let peer = json!({
            "node": "a".repeat(64), "account": "b".repeat(64), "connected": true, "heard_ms_ago": 3000,
            "roles": {"worker": true, "verifier": true, "witness": true, "poster": true},
            "serving": [], "answer_price": "10000000000000000",
        });
        let output = list(json!([peer]));
        assert!(output.text.lines().all(|line| line.chars().count() <= 80), "{}", output.text);
        assert!(output.text.contains("0.01 OPEN"), "{}", output.text);
        assert_eq!(output.ids, ["a".repeat(64)]);
    }
}
