//! Who is served: no banned peer, and not more connections at once than the limit.
//!
//! Invariant: a ban also ends connections that were accepted before it.

use std::fmt::Debug;
use std::sync::Arc;

use iroh::endpoint::{Connection, VarInt};
use iroh::protocol::{AcceptError, ProtocolHandler};
use tokio::sync::Semaphore;

use super::Bans;
use crate::net::identity;
use crate::net::limits::DATA_CONNECTIONS;

/// Tells a peer that it is banned.
const BANNED: VarInt = VarInt::from_u32(1);
/// Tells a peer that too many are connected.
const BUSY: VarInt = VarInt::from_u32(2);

/// A protocol behind the two checks. It does not pass on the shutdown: iroh-blobs' handler would close the store,
/// which the node still needs.
#[derive(Debug)]
pub(super) struct Gate<H> {
    protocol: H,
    bans: Bans,
    places: Arc<Semaphore>,
}

impl<H> Gate<H> {
    pub(super) fn new(protocol: H, bans: Bans) -> Self {
        Self { protocol, bans, places: Arc::new(Semaphore::new(DATA_CONNECTIONS)) }
    }
}

impl<H: ProtocolHandler> ProtocolHandler for Gate<H> {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let Ok(_place) = self.places.try_acquire() else {
            connection.close(BUSY, b"busy");
            return Ok(());
        };
        let node = identity::node_of_endpoint(connection.remote_id());
        let mut bans = self.bans.clone();
        tokio::select! {
            biased;
            // An error means that the data plane is gone, and with it this connection.
            _ = bans.wait_for(|bans| bans.contains(&node)) => {
                connection.close(BANNED, b"banned");
                Ok(())
            }
            served = self.protocol.accept(connection.clone()) => served,
        }
    }
}
