//! Into which network a node goes, decided before anything is written.
//!
//! Invariant: what the user gave wrongly leaves no trace: no folder, no keys, no file.

use std::net::SocketAddr;

use super::{UpOptions, Usage, chain};
use crate::home::{Home, Keys, NetworkNotice, Ticket};
use crate::net::control::{check_bootstrap, is_network_name};

/// What the user gave, read and found sound.
#[derive(Debug)]
pub(super) struct Entry {
    ticket: Option<Ticket>,
    /// Where to serve a chain, if at all.
    pub(super) chain: Option<SocketAddr>,
}

/// Reads the ticket and compares the options with each other and with what the folder says.
pub(super) fn check(options: &UpOptions) -> anyhow::Result<Entry> {
    let ticket = options.join.as_deref().map(read).transpose()?;
    let chain = chain::address(options)?;
    let known: Option<NetworkNotice> = Home::at(&options.data_dir).load("network.json")?;
    if let (Some(ticket), Some(known)) = (&ticket, &known)
        && (&known.name, known.treasury) != (&ticket.network.name, ticket.network.treasury)
    {
        let reason = match known.name == ticket.network.name {
            true => {
                format!("this folder belongs to another network than the ticket, though both are called {}", known.name)
            }
            false => format!("this folder belongs to network {}, the ticket is of {}", known.name, ticket.network.name),
        };
        return Err(Usage::new(reason, "join another network from a new folder: --data-dir DIR --join TICKET").into());
    }
    if ticket.is_none() && known.is_none() && !is_network_name(&options.network) {
        let reason = format!("{:?} is no name for a network", options.network);
        return Err(Usage::new(reason, "give --network 1 to 64 of a-z 0-9 -").into());
    }
    Ok(Entry { ticket, chain })
}

fn read(text: &str) -> Result<Ticket, Usage> {
    let ticket = Ticket::from_text(text).and_then(|ticket| {
        check_bootstrap(&ticket.bootstrap).map_err(|error| format!("the ticket is of no use: {error}"))?;
        match is_network_name(&ticket.network.name) {
            true => Ok(ticket),
            false => Err("the ticket names no network".to_owned()),
        }
    });
    let hint = "get a ticket with tributary net invite on a node of the network, and copy it as a whole";
    ticket.map_err(|reason| Usage::new(reason, hint))
}

impl Entry {
    /// The network of the ticket, of this folder, or a new one; and the peers to begin with.
    pub(super) fn join(
        &self,
        home: &Home,
        options: &UpOptions,
        keys: &Keys,
    ) -> anyhow::Result<(NetworkNotice, Vec<String>)> {
        if let Some(ticket) = &self.ticket {
            home.save("network.json", &ticket.network)?;
            home.save("bootstrap.json", &ticket.bootstrap)?;
        }
        let network = home.network(&options.network, &keys.chain)?;
        Ok((network, home.load("bootstrap.json")?.unwrap_or_default()))
    }
}
