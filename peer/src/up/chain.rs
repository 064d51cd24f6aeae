//! Where a node serves the settlement chain.
//!
//! Invariant: the chain is open to other machines only where `--listen` lets them in, and what a ticket names is an
//! address that the machines it invites can reach.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use tributary_settlement::rpc::RpcServer;

use super::ports::{KeptPorts, Socket};
use super::{UpOptions, Usage};
use crate::chainserve;
use crate::home::{Home, Keys, NetworkNotice};
use crate::net::ports::Ports;

/// What `--serve-chain` says: a port on the address that the node listens on, or an address of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeChain {
    /// The address, if one was given.
    pub ip: Option<IpAddr>,
    /// The port; zero keeps the one it had, or chooses one.
    pub port: u16,
}

impl FromStr for ServeChain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(port) = text.parse() {
            return Ok(Self { ip: None, port });
        }
        let address: SocketAddr = text.parse().map_err(|_| "give a port, or an address with a port".to_owned())?;
        Ok(Self { ip: Some(address.ip()), port: address.port() })
    }
}

/// A folder that holds a network's chain serves it again unless told where: without it the whole network stands still.
pub(super) fn as_before(options: UpOptions) -> UpOptions {
    let held = options.data_dir.join(chainserve::FOLDER).is_dir();
    let serve_chain = options.serve_chain.or(held.then_some(ServeChain { ip: None, port: 0 }));
    UpOptions { serve_chain, ..options }
}

/// Where the chain is to be served, if that fits with where the node listens.
pub(super) fn address(options: &UpOptions) -> Result<Option<SocketAddr>, Usage> {
    let Some(ServeChain { ip, port }) = options.serve_chain else { return Ok(None) };
    let listen = options.listen;
    let ip = ip.unwrap_or(listen);
    let allowed =
        ip == listen || (ip.is_loopback() && listen.is_loopback()) || (listen.is_unspecified() && !ip.is_loopback());
    if allowed {
        return Ok(Some(SocketAddr::new(ip, port)));
    }
    let reason = match ip.is_loopback() {
        true => format!("whoever joins at {listen} cannot reach a chain that is served on {ip}"),
        false => format!("a chain on {ip} is open to other machines, and --listen {listen} does not say so"),
    };
    Err(Usage::new(reason, "leave the address out, --serve-chain PORT: then it is served where --listen says"))
}

/// Serves the chain and notes it as the network's.
pub(super) async fn serve(
    home: &Home,
    address: SocketAddr,
    keys: &Keys,
    kept: &mut KeptPorts,
    network: &mut NetworkNotice,
) -> anyhow::Result<RpcServer> {
    let port = kept.choose(&mut Ports::new(address.ip()), Socket::Chain, address.port())?;
    let address = SocketAddr::new(address.ip(), port);
    let (server, notice) = chainserve::serve(home, keys.chain, address, !address.ip().is_loopback()).await?;
    network.chain = Some(notice);
    home.save("network.json", &network)?;
    Ok(server)
}

#[cfg(test)]
mod tests {
    use super::{ServeChain, address};
    use crate::up::UpOptions;

    fn served(listen: &str, chain: &str) -> Option<String> {
        let serve_chain = Some(chain.parse::<ServeChain>().unwrap());
        let options = UpOptions { listen: listen.parse().unwrap(), serve_chain, ..UpOptions::default() };
        address(&options).ok().flatten().map(|address| address.to_string())
    }

    #[test]
    fn a_port_alone_follows_the_address_of_the_node() {
        for (listen, expected) in
            [("127.0.0.1", "127.0.0.1:8545"), ("192.0.2.7", "192.0.2.7:8545"), ("::", "[::]:8545")]
        {
            assert_eq!(served(listen, "8545").unwrap(), expected);
        }
        assert!("chain".parse::<ServeChain>().is_err() && "127.0.0.1".parse::<ServeChain>().is_err());
    }

    #[test]
    fn a_chain_is_never_wider_open_than_the_node_and_never_out_of_reach_of_its_peers() {
        assert_eq!(served("127.0.0.2", "127.0.0.1:1").unwrap(), "127.0.0.1:1");
        assert_eq!(served("0.0.0.0", "192.0.2.7:1").unwrap(), "192.0.2.7:1");
        for (listen, chain) in [
            ("127.0.0.1", "0.0.0.0:1"),
            ("127.0.0.1", "192.0.2.7:1"),
            ("192.0.2.7", "0.0.0.0:1"),
            ("192.0.2.7", "192.0.2.8:1"),
            ("192.0.2.7", "127.0.0.1:1"),
            ("0.0.0.0", "127.0.0.1:1"),
        ] {
            assert_eq!(served(listen, chain), None, "{listen} {chain}");
        }
    }
}
