//! Brings a node up from its folder and takes it down again.
//!
//! Invariant: when [`start`] returns, everything the node had accepted before is in force again and its API
//! answers; when [`Running::stop`] returns, all stores are closed.

mod chain;
pub mod device;
mod entry;
mod ground;
mod ports;
mod signals;
mod sockets;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tributary_compute::device::Wanted;
use tributary_protocol::envelope::NetworkId;
use tributary_protocol::id::Amount;
use tributary_protocol::limits::EPOCH_INTERVAL_MS;
use tributary_protocol::message::Roles;
use tributary_protocol::node::{Fact, Input, Node, NodeConfig};
use tributary_protocol::wire;
use tributary_settlement::rpc::RpcServer;
use tributary_storage::journal::Journal;

pub use self::chain::ServeChain;
use self::device::Found;
use self::ground::Ground;
pub use self::signals::Signals;
use self::sockets::Sockets;
use crate::answers::Answers;
use crate::bases::{Bases, DiskLimits};
use crate::cards::Cards;
use crate::engine::EngineFolder;
use crate::engine::parent::{EngineHandle, Options as EngineOptions};
use crate::evidence::Evidence;
use crate::handle::NodeHandle;
use crate::home::{self, ApiNotice, Home, Keys, NetworkNotice};
use crate::http::{self, ApiServer, ApiState};
use crate::net::limits::MEET_TIMEOUT;
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
    /// The control plane's port; zero keeps the one it had, or chooses one.
    pub port: u16,
    /// The HTTP API's port on loopback; zero chooses one.
    pub api_port: u16,
    /// An invitation to a network.
    pub join: Option<String>,
    /// The name of a new network.
    pub network: String,
    /// What it does for others.
    pub roles: Roles,
    /// Serve a settlement chain.
    pub serve_chain: Option<ServeChain>,
    /// Take part without reaching out: no bootstrap, no mDNS.
    pub offline: bool,
    /// Find peers on the local network.
    pub mdns: bool,
    /// Parts per million of answers to have checked.
    pub audit_ppm: u32,
    /// Where models run.
    pub device: Wanted,
    /// How much of the disk bases and served adapters may take.
    pub limits: DiskLimits,
    /// What the engine may take of the memory, where the user says so.
    pub memory_bytes: Option<u64>,
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
            device: Wanted::Auto,
            limits: DiskLimits::default(),
            memory_bytes: None,
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

/// Time for each part of a node to stop; what does not is cut off, as a kill would, which every store bears.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause between two looks for a first peer.
const LOOK: Duration = Duration::from_millis(250);

/// Time for trainings to end their steps and leave their states; those that do not go on from their last checkpoints.
const WIND_UP_TIMEOUT: Duration = Duration::from_secs(10);

async fn within(what: &str, stopping: impl Future<Output = ()>) {
    within_time(STOP_TIMEOUT, what, stopping).await;
}

async fn within_time(time: Duration, what: &str, stopping: impl Future<Output = ()>) {
    if tokio::time::timeout(time, stopping).await.is_err() {
        tracing::warn!(what, "cut off, since it did not stop in time");
    }
}

/// A node that runs.
pub struct Running {
    /// Where its API is.
    pub notice: ApiNotice,
    /// What people should hear about this start.
    pub notes: Vec<String>,
    state: Arc<ApiState>,
    api: ApiServer,
    begun: Begun,
    runs: JoinHandle<()>,
}

/// Starts a node.
///
/// # Errors
/// Says what of folder, keys, ports or ticket is in the way.
pub async fn start(options: UpOptions) -> anyhow::Result<Running> {
    let options = chain::as_before(options);
    let (program, found) = look_for_device(&options).await?;
    let Ground { home, keys, journal, network, bootstrap, mut kept, chain } = Ground::prepare(&options).await?;
    let sockets = sockets::open(&home, &options, &keys, &network, bootstrap, &mut kept).await?;
    let facts = replay(&journal)?;
    let bases = open_bases(&options, &home, &journal, &found)?;
    let node = Node::new(runtime::now_ms(), node_config(&options, &keys, &network, &bases)?, facts);
    let (handle, requests) = NodeHandle::channel();
    let answers = Arc::new(Answers::default());
    let cards = Arc::new(Cards::new(handle.clone()));
    let workshop = Arc::new(Workshop::new(
        sockets.store.clone(),
        sockets.data.clone(),
        engine(program, &options, &home, &found)?,
        bases,
        handle.clone(),
        Arc::clone(&answers),
        Arc::new(Traffic::default()),
    ));
    let settlement = Arc::new(Settlement::new(network.chain.clone(), &keys, &home.path("transactions.redb")));
    let runs = Arc::new(Runs::new(Arc::clone(&journal), Arc::clone(&workshop), home.path("runs")));
    let Sockets { control, control_events, data, streams, topic, keeper, knows_peers, .. } = sockets;
    let parts = Parts {
        node,
        journal,
        control: control.clone(),
        data: data.clone(),
        workshop: Arc::clone(&workshop),
        answers,
        cards: Arc::clone(&cards),
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
        evidence: Arc::new(Evidence::at(home.path("spans"))),
        home,
        chain_url: chain.as_ref().and(network.chain.as_ref()).map(|notice| notice.url.clone()),
        network,
        handle,
        workshop,
        cards,
        settlement,
        runs: Arc::clone(&runs),
        control,
        data,
        account_key: keys.account,
        chain_key: keys.chain,
        started_ms: runtime::now_ms(),
        stop: tokio_util::sync::CancellationToken::new(),
    });
    let begun = Begun { node, keeper, chain, failed: watching, knows_peers };
    announce(state, options.api_port, begun, runs, kept.notes.into_iter().chain(found.note()).collect()).await
}

/// Where this program lies, which starts itself again for the engine, and where its models run.
async fn look_for_device(options: &UpOptions) -> anyhow::Result<(PathBuf, Found)> {
    let program = std::env::current_exe().context("this program's own path is unknown")?;
    let found = device::find(&program, options.device).await?;
    Ok((program, found))
}

fn engine(program: PathBuf, options: &UpOptions, home: &Home, found: &Found) -> anyhow::Result<EngineHandle> {
    let options =
        EngineOptions { device: found.wanted(), memory_bytes: options.memory_bytes, ..EngineOptions::default() };
    let folder = EngineFolder::at(&home.path("engine"));
    folder.forget_handed().with_context(|| folder.path().display().to_string())?;
    Ok(EngineHandle::with(program, folder, options))
}

fn open_bases(options: &UpOptions, home: &Home, journal: &Arc<Journal>, found: &Found) -> std::io::Result<Bases> {
    Bases::open(Arc::clone(journal), &home.path("models"), options.limits, found.classes.clone())
}

/// What of a node runs before its API does.
struct Begun {
    node: JoinHandle<()>,
    keeper: Option<JoinHandle<()>>,
    chain: Option<RpcServer>,
    failed: watch::Receiver<Option<String>>,
    /// Whether it has anybody to look for.
    knows_peers: bool,
}

/// Serves the API and tells programs of this user where it is.
async fn announce(
    state: Arc<ApiState>,
    port: u16,
    begun: Begun,
    runs: Arc<Runs>,
    notes: Vec<String>,
) -> anyhow::Result<Running> {
    let api = http::serve(Arc::clone(&state), port).await?;
    let notice = api.notice().clone();
    state.home.save("api.json", &notice)?;
    Ok(Running { notice, notes, state, api, begun, runs: tokio::spawn(runs.drive()) })
}

fn replay(journal: &Journal) -> anyhow::Result<Vec<Fact>> {
    let mut facts = Vec::new();
    for entry in journal.replay(0)? {
        let (_, bytes) = entry?;
        facts.push(wire::decode(&bytes, crate::engine::FRAME_MAX_BYTES).with_context(|| foreign(journal.path()))?);
    }
    tracing::info!(facts = facts.len(), "journal replayed");
    Ok(facts)
}

/// An entry that is whole, since the journal checks its hash, and says nothing to this program.
fn foreign(journal: &Path) -> String {
    format!(
        "{} was written by another version of tributary, whose entries this one does not read. Nothing was changed: \
         start it with the version that wrote it, or give this one a folder of its own with --data-dir",
        journal.display()
    )
}

fn node_config(options: &UpOptions, keys: &Keys, network: &NetworkNotice, bases: &Bases) -> anyhow::Result<NodeConfig> {
    Ok(NodeConfig {
        network: network_id(network),
        node_key: ed25519_dalek::SigningKey::from_bytes(&keys.node_seed),
        account_key: keys.account.clone(),
        chain_address: home::chain_address(&keys.chain)?,
        treasury: network.treasury,
        // Whoever serves the chain anchors on it, when nobody else does.
        roles: Roles { poster: options.roles.poster || options.serve_chain.is_some(), ..options.roles },
        classes: bases.classes(),
        training_price_per_kilostep: TRAINING_PRICE,
        training_ms_per_kilostep: TRAINING_MS_PER_KILOSTEP,
        answer_price: ANSWER_PRICE,
        training_slots: 1,
        audit_ppm: options.audit_ppm,
        epoch_interval_ms: EPOCH_INTERVAL_MS,
        entropy: home::entropy(&keys.node_seed),
    })
}

/// What the user gave is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Usage {
    reason: String,
    /// What to do.
    pub hint: String,
}

impl Usage {
    fn new(reason: impl Into<String>, hint: &str) -> Self {
        Self { reason: reason.into(), hint: hint.to_owned() }
    }
}

/// The id of a network: its name and its treasury, so that two networks of one name stay apart.
#[must_use]
pub fn network_id(network: &NetworkNotice) -> NetworkId {
    NetworkId::named(&format!("{}/{}", network.name, network.treasury))
}

impl Running {
    /// The network's settlement chain, and whether this node serves it.
    #[must_use]
    pub fn chain(&self) -> Option<(String, bool)> {
        let notice = self.state.network.chain.as_ref()?;
        Some((notice.url.clone(), self.state.chain_url.is_some()))
    }

    /// Waits until the API asks for the end, or the node fails by itself.
    ///
    /// # Errors
    /// Why the node had to stop.
    pub async fn wait(&self) -> anyhow::Result<()> {
        let (asked, mut failed) = (self.state.stop.clone(), self.begun.failed.clone());
        tokio::select! {
            () = asked.cancelled() => Ok(()),
            changed = failed.wait_for(Option::is_some) => {
                let reason = changed.ok().and_then(|reason| reason.clone());
                Err(anyhow::anyhow!(reason.unwrap_or_else(|| "the node ended".into())))
            }
        }
    }

    /// Whether no peer answers for a while although this node knows some.
    pub async fn stays_alone(&self) -> bool {
        let meeting = async {
            while self.state.control.peers().await.is_ok_and(|peers| peers.is_empty()) {
                tokio::time::sleep(LOOK).await;
            }
        };
        self.begun.knows_peers && tokio::time::timeout(MEET_TIMEOUT, meeting).await.is_err()
    }

    /// Stops everything in the order of dependence.
    ///
    /// # Errors
    /// When a store does not close cleanly.
    pub async fn stop(self) -> anyhow::Result<()> {
        let _ = std::fs::remove_file(self.state.home.path("api.json"));
        self.runs.abort();
        let Begun { node, keeper, chain, .. } = self.begun;
        within("the API", self.api.stop()).await;
        within("the node", async {
            self.state.handle.stop().await;
            // It has said that it ends.
            let _ = node.await;
        })
        .await;
        // After the node: it must not take what is stopped here for given up.
        within_time(WIND_UP_TIMEOUT, "the trainings", self.state.workshop.wind_up()).await;
        within("the engine", self.state.workshop.engine.shutdown()).await;
        let control = within("the control plane", async {
            self.state.control.shutdown().await;
            if let Some(keeper) = keeper {
                // The last change is written when it ends.
                let _ = keeper.await;
            }
        });
        let data = within("the data plane", self.state.data.shutdown());
        let chain = within("the chain", async {
            if let Some(chain) = chain {
                chain.stop().await;
            }
        });
        tokio::join!(control, data, chain);
        let store = self.state.workshop.store.clone();
        match tokio::time::timeout(STOP_TIMEOUT, store.shutdown()).await {
            Ok(closed) => Ok(closed?),
            Err(_) => Err(anyhow::anyhow!("the store of blobs did not close in time")),
        }
    }
}
