//! Serving the embedded settlement chain to other nodes over JSON-RPC.
//!
//! Invariant: the contracts are made once; a kill between making and noting them makes none twice, since the
//! transactions are remembered by purpose.

use std::net::SocketAddr;
use std::path::Path;

use tributary_settlement::chain::{Chain, ChainKey, Deployment, Genesis};
use tributary_settlement::evm::EmbeddedChain;
use tributary_settlement::queue::Queue;
use tributary_settlement::rpc::{self, RpcServer};

use crate::home::{ChainNotice, Home};
use crate::net::reach;

/// The chain's place in the node's folder.
pub(crate) const FOLDER: &str = "chain";
/// Where the deployment is noted.
const DEPLOYMENT: &str = "deployment.json";

/// Opens the chain in the node's folder, makes the contracts on first use, and serves it: on loopback only, unless it is
/// `open` to other machines. The notice names an address that they reach.
///
/// # Errors
/// When the folder, the port or the chain is in the way.
pub async fn serve(
    home: &Home,
    key: [u8; 32],
    address: SocketAddr,
    open: bool,
) -> anyhow::Result<(RpcServer, ChainNotice)> {
    let folder = home.path(FOLDER);
    let embedded = EmbeddedChain::open(&folder)?;
    let deployment = match home.load(DEPLOYMENT)? {
        Some(known) => known,
        None => deploy(home, &embedded, key, &folder).await?,
    };
    let server = if open { rpc::serve_open(embedded, address).await? } else { rpc::serve(embedded, address).await? };
    let reached = reach::published(server.address()).first().copied().unwrap_or(server.address());
    let notice = ChainNotice { url: format!("http://{reached}"), deployment };
    Ok((server, notice))
}

async fn deploy(home: &Home, embedded: &EmbeddedChain, key: [u8; 32], folder: &Path) -> anyhow::Result<Deployment> {
    let key = ChainKey::from_bytes(key)?;
    let genesis = Genesis::local(key.address());
    let queue = Queue::open(&folder.join("deployment-queue.redb"))?;
    let chain = Chain::embedded(embedded.clone(), key)?.with_queue(queue);
    let deployment = chain.once("deployment").deploy(&genesis).await?;
    home.save(DEPLOYMENT, &deployment)?;
    Ok(deployment)
}
