//! Brings a node up from its folder and takes it down again.
//!
//! Invariant: when [`start`] returns, everything the node had accepted before is in force again and its API
//! answers; when [`Running::stop`] returns, all stores are closed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tributary_protocol::envelope::NetworkId;
use tributary_protocol::id::Amount;
use tributary_protocol::limits::EPOCH_INTERVAL_MS;
use tributary_protocol::message::Roles;
use tributary_protocol::node::{Fact, Input, Node, NodeConfig};
use tributary_protocol::wire;
use tributary_settlement::rpc::RpcServer;
use tributary_storage::blobs::IrohBlobs;
use tributary_storage::journal::Journal;

use crate::answers::Answers;
use crate::chainserve;
use crate::engine::parent::EngineHandle;
use crate::handle::NodeHandle;
use crate::home::{self, ApiNotice, Home, Keys, NetworkNotice, Ticket};
use crate::http::{self, ApiServer, ApiState};
use crate::net::control::{Control, ControlConfig, ControlEvent};
use crate::net::data::{AnswerStream, DataConfig, DataPlane};
use crate::runs::Runs;
use crate::runtime::{self, EVENT_QUEUE, Parts, Sources};
use crate::settle::Settlement;
use crate::traffic::Traffic;
use crate::work::Workshop;

/// How a node is started.
#[derive(Debug, Clone)]
pub struct UpOptions {
    /// Its folder.
    pub data_dir: PathBuf,
    /// The address its network sockets bind to.
    pub listen: IpAddr,
    /// The control plane's port; zero chooses one.
    pub port: u16,
    /// The HTTP API's port on loopback; zero chooses one.
    pub api_port: u16,
    /// An invitation to a network.
    pub join: Option<String>,
    /// The name of a new network.
    pub network: String,
    /// What it does for others.
    pub roles: Roles,
    /// Serve a settlement chain on this loopback address.
    pub serve_chain: Option<SocketAddr>,
    /// Take part without reaching out: no bootstrap, no mDNS.
    pub offline: bool,
    /// Find peers on the local network.
    pub mdns: bool,
    /// Parts per million of answers to have checked.
    pub audit_ppm: u32,
}

impl Default for UpOptions {
    fn default() -> Self {
        Self {
            data_dir: default_data_dir(),
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            api_port: 0,
            join: None,
            network: "tributary".into(),
            roles: Roles { worker: true, verifier: true, witness: true, poster: false },
            serve_chain: None,
            offline: false,
            mdns: false,
            audit_ppm: 100_000,
        }
    }
}

/// `TRIBUTARY_DATA_DIR`, else the user's data folder.
#[must_use]
pub fn default_data_dir() -> PathBuf {
    let home = || std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    std::env::var_os("XDG_DATA_HOME").map_or_else(|| home().join(".local/share"), PathBuf::from).join("tributary")
}

/// A thousand training steps cost 10 OPEN, an answer a hundredth, until a user sets other prices.
const TRAINING_PRICE: Amount = Amount(10 * Amount::OPEN.0);
const ANSWER_PRICE: Amount = Amount(Amount::OPEN.0 / 100);
/// What a laptop needs for a thousand steps of the demo's recipe, until it was measured here.
const TRAINING_MS_PER_KILOSTEP: u64 = 100_000;

/// A node that runs.
pub struct Running {
    /// Where its API is.
    pub notice: ApiNotice,
    state: Arc<ApiState>,
    api: ApiServer,
    node: JoinHandle<()>,
    runs: JoinHandle<()>,
    chain: Option<RpcServer>,
    failed: watch::Receiver<Option<String>>,
}

/// The sockets of a node and what comes out of them.
struct Sockets {
    store: IrohBlobs,
    control: Control,
    control_events: mpsc::Receiver<ControlEvent>,
    data: DataPlane,
    streams: mpsc::Receiver<AnswerStream>,
    topic: String,
}

/// Starts a node.
///
/// # Errors
/// Says what of folder, keys, ports or ticket is in the way.
pub async fn start(options: UpOptions) -> anyhow::Result<Running> {
    let home = Home::open(&options.data_dir)?;
    let journal = Arc::new(Journal::open(&home.path("journal.redb"))?);
    let keys = home.keys()?;
    let (network, bootstrap) = join(&home, &options, &keys)?;
    let (network, chain) = serve_chain(&home, &options, &keys, network).await?;
    let sockets = open_sockets(&home, &options, &keys, &network, bootstrap).await?;
    let facts = replay(&journal)?;
    tracing::info!(facts = facts.len(), "journal replayed");
    let node = Node::new(runtime::now_ms(), node_config(&options, &keys, &network)?, facts);
    let (handle, requests) = NodeHandle::channel();
    let answers = Arc::new(Answers::default());
    let engine = EngineHandle::new(std::env::current_exe().context("this program's own path is unknown")?);
    let workshop = Arc::new(Workshop::new(
        sockets.store.clone(),
        sockets.data.clone(),
        engine,
        Arc::clone(&journal),
        handle.clone(),
        Arc::clone(&answers),
        Arc::new(Traffic::default()),
    ));
    let settlement = Arc::new(Settlement::new(network.chain.clone(), &keys, &home.path("transactions.redb")));
    let runs = Arc::new(Runs::new(Arc::clone(&journal), Arc::clone(&workshop)));
    let Sockets { control, control_events, data, streams, topic, .. } = sockets;
    let parts = Parts {
        node,
        journal,
        control: control.clone(),
        data: data.clone(),
        workshop: Arc::clone(&workshop),
        answers,
        settlement: Arc::clone(&settlement),
        handle: handle.clone(),
        events: broadcast::channel(EVENT_QUEUE).0,
        topic,
    };
    let (failed, watching) = watch::channel(None);
    let node = tokio::spawn(runtime::run(parts, Sources { requests, control: control_events, streams }, failed));
    let listening = control.listen_addrs().await?;
    handle.input(Input::Listening { control: listening, data: runtime::data_addresses(&data) }).await?;
    let state = Arc::new(ApiState {
        home,
        network,
        handle,
        workshop,
        settlement,
        runs: Arc::clone(&runs),
        control,
        data,
        account_key: keys.account,
        chain_key: keys.chain,
        started_ms: runtime::now_ms(),
        chain_url: chain.as_ref().map(RpcServer::url),
        stop: tokio_util::sync::CancellationToken::new(),
    });
    announce(state, options.api_port, node, runs, chain, watching).await
}

/// Serves the API and tells programs of this user where it is.
async fn announce(
    state: Arc<ApiState>,
    port: u16,
    node: JoinHandle<()>,
    runs: Arc<Runs>,
    chain: Option<RpcServer>,
    failed: watch::Receiver<Option<String>>,
) -> anyhow::Result<Running> {
    let api = http::serve(Arc::clone(&state), port).await?;
    let notice = api.notice().clone();
    state.home.save("api.json", &notice)?;
    Ok(Running { notice, state, api, node, runs: tokio::spawn(runs.drive()), chain, failed })
}

async fn open_sockets(
    home: &Home,
    options: &UpOptions,
    keys: &Keys,
    network: &NetworkNotice,
    bootstrap: Vec<String>,
) -> anyhow::Result<Sockets> {
    let store = IrohBlobs::open(&home.path("blobs")).await?;
    let (control, control_events) = Control::start(ControlConfig {
        node_seed: keys.node_seed,
        listen: vec![SocketAddr::new(options.listen, options.port)],
        bootstrap: if options.offline { Vec::new() } else { bootstrap },
        network: network.name.clone(),
        mdns: options.mdns && !options.offline,
    })
    .await?;
    let topic = format!("tributary/1/{}", network.name);
    control.subscribe(&topic).await?;
    let free = SocketAddr::new(options.listen, 0);
    let config = DataConfig { node_seed: keys.node_seed, bind: free, store: store.clone(), lane: Some(free) };
    let (data, streams) = DataPlane::start(config).await?;
    Ok(Sockets { store, control, control_events, data, streams, topic })
}

/// The network of the ticket, of this folder, or a new one; and the peers to begin with.
fn join(home: &Home, options: &UpOptions, keys: &Keys) -> anyhow::Result<(NetworkNotice, Vec<String>)> {
    if let Some(text) = &options.join {
        let ticket = Ticket::from_text(text).map_err(|reason| anyhow::anyhow!(Usage(reason)))?;
        let known: Option<NetworkNotice> = home.load("network.json")?;
        if let Some(known) =
            known.filter(|known| (&known.name, known.treasury) != (&ticket.network.name, ticket.network.treasury))
        {
            let reason = format!("this folder belongs to network {}; use another --data-dir", known.name);
            return Err(anyhow::anyhow!(Usage(reason)));
        }
        home.save("network.json", &ticket.network)?;
        home.save("bootstrap.json", &ticket.bootstrap)?;
    }
    let network = home.network(&options.network, &keys.chain)?;
    Ok((network, home.load("bootstrap.json")?.unwrap_or_default()))
}

/// What the user gave is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

async fn serve_chain(
    home: &Home,
    options: &UpOptions,
    keys: &Keys,
    mut network: NetworkNotice,
) -> anyhow::Result<(NetworkNotice, Option<RpcServer>)> {
    let Some(address) = options.serve_chain else { return Ok((network, None)) };
    let (server, notice) = chainserve::serve(home, keys.chain, address).await?;
    network.chain = Some(notice);
    home.save("network.json", &network)?;
    Ok((network, Some(server)))
}

fn replay(journal: &Journal) -> anyhow::Result<Vec<Fact>> {
    let mut facts = Vec::new();
    for entry in journal.replay(0)? {
        let (_, bytes) = entry?;
        facts.push(wire::decode(&bytes, crate::engine::FRAME_MAX_BYTES).context("an entry of the journal is damaged")?);
    }
    Ok(facts)
}

fn node_config(options: &UpOptions, keys: &Keys, network: &NetworkNotice) -> anyhow::Result<NodeConfig> {
    Ok(NodeConfig {
        network: network_id(network),
        node_key: ed25519_dalek::SigningKey::from_bytes(&keys.node_seed),
        account_key: keys.account.clone(),
        chain_address: home::chain_address(&keys.chain)?,
        treasury: network.treasury,
        // Whoever serves the chain anchors on it, when nobody else does.
        roles: Roles { poster: options.roles.poster || options.serve_chain.is_some(), ..options.roles },
        class: tributary_compute::device::class(),
        training_price_per_kilostep: TRAINING_PRICE,
        training_ms_per_kilostep: TRAINING_MS_PER_KILOSTEP,
        answer_price: ANSWER_PRICE,
        training_slots: 1,
        audit_ppm: options.audit_ppm,
        epoch_interval_ms: EPOCH_INTERVAL_MS,
        entropy: home::entropy(&keys.node_seed),
    })
}

/// The id of a network: its name and its treasury, so that two networks of one name stay apart.
#[must_use]
pub fn network_id(network: &NetworkNotice) -> NetworkId {
    NetworkId::named(&format!("{}/{}", network.name, network.treasury))
}

impl Running {
    /// Waits until the user or the API asks for the end, or the node fails by itself.
    ///
    /// # Errors
    /// Why the node had to stop.
    pub async fn wait(&mut self) -> anyhow::Result<()> {
        let asked = self.state.stop.clone();
        tokio::select! {
            () = asked.cancelled() => Ok(()),
            signal = shutdown_signal() => signal,
            changed = self.failed.wait_for(Option::is_some) => {
                let reason = changed.ok().and_then(|reason| reason.clone());
                Err(anyhow::anyhow!(reason.unwrap_or_else(|| "the node ended".into())))
            }
        }
    }

    /// Stops everything in the order of dependence.
    ///
    /// # Errors
    /// When a store does not close cleanly.
    pub async fn stop(self) -> anyhow::Result<()> {
        let _ = std::fs::remove_file(self.state.home.path("api.json"));
        self.runs.abort();
        self.api.stop().await;
        self.state.handle.stop().await;
        let _ = self.node.await;
        self.state.workshop.engine.shutdown().await;
        self.state.control.shutdown().await;
        self.state.data.shutdown().await;
        if let Some(chain) = self.chain {
            chain.stop().await;
        }
        self.state.workshop.store.clone().shutdown().await?;
        Ok(())
    }
}

async fn shutdown_signal() -> anyhow::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            done = tokio::signal::ctrl_c() => done?,
            _ = terminate.recv() => {}
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await?;
    Ok(())
}
