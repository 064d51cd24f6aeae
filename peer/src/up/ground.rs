//! What a node stands on: its folder, keys, journal and network.
//!
//! Invariant: keys are made only under the journal's lock, and whoever cannot open the keys that are there changes
//! nothing.

use std::sync::Arc;

use tributary_settlement::rpc::RpcServer;
use tributary_storage::journal::Journal;

use super::ports::KeptPorts;
use super::{UpOptions, chain, entry};
use crate::home::{Home, Keys, NetworkNotice};

/// What of a node is there before its sockets are.
pub(super) struct Ground {
    pub(super) home: Home,
    pub(super) keys: Keys,
    pub(super) journal: Arc<Journal>,
    pub(super) network: NetworkNotice,
    pub(super) bootstrap: Vec<String>,
    pub(super) kept: KeptPorts,
    pub(super) chain: Option<RpcServer>,
}

impl Ground {
    /// Opens the folder and makes or joins the network.
    pub(super) async fn prepare(options: &UpOptions) -> anyhow::Result<Self> {
        let entry = entry::check(options)?;
        let home = Home::open(&options.data_dir)?;
        let (keys, journal) = unlock(&home)?;
        let (mut network, bootstrap) = entry.join(&home, options, &keys)?;
        let mut kept = KeptPorts::load(&home)?;
        let chain = match entry.chain {
            Some(address) => Some(chain::serve(&home, address, &keys, &mut kept, &mut network).await?),
            None => None,
        };
        Ok(Self { home, keys, journal, network, bootstrap, kept, chain })
    }
}

/// The keys and the locked journal. Keys that are there are unlocked before the journal is touched; new ones are made
/// only under its lock, so that of two processes one makes them.
fn unlock(home: &Home) -> anyhow::Result<(Keys, Arc<Journal>)> {
    let unlocked = if home.has_keys() { Some(home.keys()?) } else { None };
    let journal = Arc::new(Journal::open(&home.path("journal.redb"))?);
    Ok((unlocked.map_or_else(|| home.keys(), Ok)?, journal))
}
