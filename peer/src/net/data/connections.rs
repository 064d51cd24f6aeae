//! Open connections to others, one per peer and protocol, used again while they live.
//!
//! Invariant: a connection that is known to be closed is never handed out; a bounded number is kept.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use iroh::Endpoint;
use iroh::endpoint::{Connection, VarInt};
use tributary_protocol::id::NodeId;

use crate::net::limits::{DATA_CONNECT_TIMEOUT, DATA_CONNECTIONS};
use crate::net::{NetError, identity};

/// Tells a peer that this connection is of no use any more.
const FORGOTTEN: VarInt = VarInt::from_u32(3);

type Key = (NodeId, &'static [u8]);

/// The connections of one endpoint.
#[derive(Debug)]
pub(super) struct Connections {
    endpoint: Endpoint,
    open: Mutex<BTreeMap<Key, Connection>>,
}

impl Connections {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, open: Mutex::default() }
    }

    /// The connection to `node` for the protocol `alpn`, made if there is none.
    pub(super) async fn get(&self, node: NodeId, alpn: &'static [u8]) -> Result<Connection, NetError> {
        let live = |connection: &&Connection| connection.close_reason().is_none();
        if let Some(connection) = self.open().get(&(node, alpn)).filter(live) {
            return Ok(connection.clone());
        }
        let unreachable = |reason: String| NetError::Unreachable { node, reason };
        let connecting = self.endpoint.connect(identity::endpoint_id(node)?, alpn);
        let connection = tokio::time::timeout(DATA_CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| unreachable("no answer in time".to_owned()))?
            .map_err(|error| unreachable(error.to_string()))?;
        let mut open = self.open();
        if open.len() >= DATA_CONNECTIONS {
            open.retain(|_, connection| connection.close_reason().is_none());
        }
        if open.len() >= DATA_CONNECTIONS {
            open.pop_first();
        }
        open.insert((node, alpn), connection.clone());
        Ok(connection)
    }

    /// Closes one connection: it stopped answering.
    pub(super) fn drop_stale(&self, node: NodeId, alpn: &'static [u8]) {
        if let Some(connection) = self.open().remove(&(node, alpn)) {
            connection.close(FORGOTTEN, b"no answer");
        }
    }

    /// Closes all connections to `node`.
    pub(super) fn forget(&self, node: NodeId) {
        self.open().retain(|(other, _), connection| {
            let keep = *other != node;
            if !keep {
                connection.close(FORGOTTEN, b"forgotten");
            }
            keep
        });
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<Key, Connection>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
