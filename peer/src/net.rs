//! The network drivers: libp2p carries control messages, iroh carries blobs and answers between any two
//! peers, quinn carries blobs between peers that reach each other directly.
//!
//! Architecture invariant: only this folder knows libp2p, iroh and quinn, and it holds no policy. It moves
//! bytes between node ids, keeps every queue bounded, and reports what happened; what a message means, who
//! deserves a ban and which provider to ask is decided above.

pub mod control;
pub mod data;
pub mod identity;
mod lane;
pub mod limits;
pub mod ports;
pub mod reach;

use std::net::SocketAddr;

use tributary_protocol::id::NodeId;

/// Why a network driver refused or failed; none of these means that the driver itself has stopped, except
/// [`NetError::Closed`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Another program listens there.
    #[error("port in use: {addr}")]
    PortInUse {
        /// The address asked for.
        addr: SocketAddr,
    },
    /// The machine refuses to listen there.
    #[error("cannot listen on {addr}: {reason}")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// A text is no multiaddress, or one that names no peer where a peer is needed.
    #[error("not a usable address: {address}")]
    BadAddress {
        /// The text.
        address: String,
    },
    /// More bytes than the channel carries.
    #[error("{size} bytes, at most {limit} fit")]
    TooLarge {
        /// Bytes given.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The queue towards this peer is full: try again later.
    #[error("too much is waiting for {to}")]
    Busy {
        /// The slow peer.
        to: NodeId,
    },
    /// The peer did not answer at any address known for it.
    #[error("cannot reach {node}: {reason}")]
    Unreachable {
        /// The peer.
        node: NodeId,
        /// What each attempt said.
        reason: String,
    },
    /// A topic takes no message or subscription now.
    #[error("topic {topic}: {reason}")]
    Topic {
        /// The topic.
        topic: String,
        /// Why.
        reason: String,
    },
    /// The 32 bytes are no ed25519 public key.
    #[error("not a node key")]
    Key,
    /// The driver has been shut down.
    #[error("the network driver has stopped")]
    Closed,
    /// A library refused our own configuration: a defect of this program.
    #[error("network set-up: {reason}")]
    Setup {
        /// What it said.
        reason: String,
    },
}

impl NetError {
    pub(crate) fn setup(error: impl std::fmt::Display) -> Self {
        Self::Setup { reason: error.to_string() }
    }

    /// What a failed bind to `addr` means.
    pub(crate) fn bind(addr: SocketAddr, error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::AddrInUse => Self::PortInUse { addr },
            _ => Self::Listen { addr, reason: error.to_string() },
        }
    }
}

/// Fails early, and with the address in hand, when a UDP socket can't be bound: the libraries wrap the system's
/// error until its kind is lost. Port 0 always passes.
pub(crate) fn probe_udp(addr: SocketAddr) -> Result<(), NetError> {
    std::net::UdpSocket::bind(addr).map(drop).map_err(|error| NetError::bind(addr, &error))
}

/// The same for TCP, where libp2p shares a taken port silently (`SO_REUSEPORT`).
pub(crate) fn probe_tcp(addr: SocketAddr) -> Result<(), NetError> {
    std::net::TcpListener::bind(addr).map(drop).map_err(|error| NetError::bind(addr, &error))
}
