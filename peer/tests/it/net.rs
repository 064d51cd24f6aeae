//! The network drivers against each other and against hostile peers, over real loopback sockets.

mod control;
mod data;
mod hostile;
mod lane;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tributary_peer::net::control::{Control, ControlConfig, ControlEvent};
use tributary_protocol::id::NodeId;

/// Longest wait for anything: the tests share two cores with others.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two looks at a state.
pub const LOOK: Duration = Duration::from_millis(50);
/// The network's name in these tests.
pub const NETWORK: &str = "test";

/// A control plane and what it reported.
pub struct Peer {
    pub control: Control,
    pub events: mpsc::Receiver<ControlEvent>,
}

impl Peer {
    /// A node with the seed `[number; 32]` on loopback.
    pub async fn start(number: u8, bootstrap: &[String]) -> Self {
        let config = ControlConfig { bootstrap: bootstrap.to_vec(), ..ControlConfig::loopback([number; 32], NETWORK) };
        Self::start_with(config).await
    }

    pub async fn start_with(config: ControlConfig) -> Self {
        let (control, events) = Control::start(config).await.unwrap();
        Self { control, events }
    }

    pub fn node(&self) -> NodeId {
        self.control.node_id()
    }

    /// Its addresses, for others' bootstrap lists.
    pub async fn addresses(&self) -> Vec<String> {
        self.control.listen_addrs().await.unwrap()
    }

    /// Reads events until one is wanted; accepts all gossip on the way.
    pub async fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(&ControlEvent) -> Option<T>) -> T {
        let reading = async {
            loop {
                let event = self.events.recv().await.expect("the driver runs");
                if let ControlEvent::Message { gossip: Some(gossip), .. } = &event {
                    self.control.accept(gossip).await.unwrap();
                }
                if let Some(found) = wanted(&event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(DEADLINE, reading).await.unwrap_or_else(|_| panic!("{what} in time"))
    }

    /// The next direct message.
    pub async fn direct(&mut self) -> (NodeId, Bytes) {
        self.until("a direct message", |event| match event {
            ControlEvent::Message { from, bytes, gossip: None } => Some((*from, bytes.clone())),
            _ => None,
        })
        .await
    }

    /// Waits until all of `texts` have come by gossip.
    pub async fn gossip(&mut self, texts: &[String]) {
        let mut missing: BTreeSet<_> = texts.iter().map(|text| Bytes::from(text.clone())).collect();
        self.until(&format!("gossip {texts:?}"), |event| {
            if let ControlEvent::Message { bytes, gossip: Some(_), .. } = event {
                missing.remove(bytes);
            }
            missing.is_empty().then_some(())
        })
        .await;
    }

    pub async fn connected_to(&mut self, node: NodeId) {
        self.until(&format!("a connection to {node:?}"), |event| {
            matches!(event, ControlEvent::PeerConnected(other) if *other == node).then_some(())
        })
        .await;
    }

    pub async fn disconnected_from(&mut self, node: NodeId) {
        self.until(&format!("the end of the connection to {node:?}"), |event| {
            matches!(event, ControlEvent::PeerDisconnected(other) if *other == node).then_some(())
        })
        .await;
    }
}

/// Looks again and again until `look` says yes.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut look: impl FnMut() -> F) {
    let looking = async {
        while !look().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(DEADLINE, looking).await.unwrap_or_else(|_| panic!("{what} in time"));
}
