//! A node's sockets: on the ports it had before, and towards the peers it knew before.
//!
//! Invariant: the peers that a node meets are in its folder before they matter, in a file that is written whole or not
//! at all, so that after a power cut of all nodes any of them finds the others.

use std::net::{IpAddr, SocketAddr};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tributary_storage::blobs::IrohBlobs;

use super::UpOptions;
use super::ports::{KeptPorts, Socket, load_or_begin};
use crate::home::{Home, Keys, NetworkNotice};
use crate::net::control::{Control, ControlConfig, ControlEvent, KnownPeer, ip_of_address};
use crate::net::data::{AnswerStream, DataConfig, DataPlane};
use crate::net::ports::Ports;
use crate::net::reach::{self, is_outward};

/// Where the known peers are kept.
const PEERS: &str = "peers.json";

/// The sockets of a node and what comes out of them.
pub(super) struct Sockets {
    pub(super) store: IrohBlobs,
    pub(super) control: Control,
    pub(super) control_events: mpsc::Receiver<ControlEvent>,
    pub(super) data: DataPlane,
    pub(super) streams: mpsc::Receiver<AnswerStream>,
    pub(super) topic: String,
    /// Whether there is anybody to look for.
    pub(super) knows_peers: bool,
    /// Writes the peers down that are met, until the control plane ends.
    pub(super) keeper: Option<JoinHandle<()>>,
}

/// Opens them all.
pub(super) async fn open(
    home: &Home,
    options: &UpOptions,
    keys: &Keys,
    network: &NetworkNotice,
    bootstrap: Vec<String>,
    kept: &mut KeptPorts,
) -> anyhow::Result<Sockets> {
    let mut ports = Ports::new(options.listen);
    let mut at = |socket, asked| {
        let port = kept.choose(&mut ports, socket, asked)?;
        anyhow::Ok(SocketAddr::new(options.listen, port))
    };
    let listen = at(Socket::Control, options.port)?;
    let (bind, lane) = (at(Socket::Data, 0)?, at(Socket::Lane, 0)?);
    let store = IrohBlobs::open(&home.path("blobs")).await?;
    let (bootstrap, known) = match options.offline {
        true => (Vec::new(), Vec::new()),
        false => (bootstrap, load_or_begin::<Vec<KnownPeer>>(home, PEERS, &mut kept.notes)?),
    };
    kept.notes.extend(out_of_reach(options.listen, &bootstrap));
    let knows_peers = !bootstrap.is_empty() || !known.is_empty();
    let (control, control_events) = Control::start(ControlConfig {
        node_seed: keys.node_seed,
        listen: vec![listen],
        bootstrap,
        known,
        network: network.name.clone(),
        mdns: options.mdns && !options.offline,
    })
    .await?;
    let topic = format!("tributary/1/{}", network.name);
    control.subscribe(&topic).await?;
    let config = DataConfig { node_seed: keys.node_seed, bind, store: store.clone(), lane: Some(lane) };
    let (data, streams) = DataPlane::start(config).await?;
    kept.save(home)?;
    // Offline, nobody is looked for, and whoever comes by is no reason to forget the others.
    let keeper = (!options.offline).then(|| tokio::spawn(keep_peers(home.clone(), control.known())));
    Ok(Sockets { store, control, control_events, data, streams, topic, knows_peers, keeper })
}

/// What to tell about a node on loopback whose network is on other machines: sockets on loopback send nothing there.
fn out_of_reach(listen: IpAddr, bootstrap: &[String]) -> Option<String> {
    let mut elsewhere = bootstrap.iter().filter_map(|address| ip_of_address(address)).filter(|ip| is_outward(*ip));
    let there = elsewhere.next().filter(|_| listen.is_loopback())?;
    let own = reach::towards(there).map_or_else(|| "ADDRESS".to_owned(), |ip| ip.to_string());
    Some(format!("! this node exchanges no data with {there} or other machines unless it runs with --listen {own}"))
}

/// Writes the known peers down whenever they change, one change at a time.
async fn keep_peers(home: Home, mut known: watch::Receiver<Vec<KnownPeer>>) {
    while known.changed().await.is_ok() {
        let peers = known.borrow_and_update().clone();
        let home = home.clone();
        match tokio::task::spawn_blocking(move || home.save(PEERS, &peers)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the known peers are not kept"),
            Err(error) => tracing::warn!(%error, "the known peers are not kept"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::out_of_reach;

    #[test]
    fn a_node_on_loopback_hears_that_a_network_elsewhere_is_out_of_its_reach() {
        let told = |listen: &str, address: &str| out_of_reach(listen.parse().unwrap(), &[address.to_owned()]);
        let note = told("127.0.0.1", "/ip4/198.51.100.7/tcp/1").unwrap();
        assert!(note.contains("198.51.100.7") && note.contains("--listen "), "{note}");
        assert_eq!(told("192.0.2.7", "/ip4/198.51.100.7/tcp/1"), None);
        assert_eq!(told("127.0.0.1", "/ip4/127.0.0.2/tcp/1"), None);
    }
}
