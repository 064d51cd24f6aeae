//! The queues of direct messages: what waits for whom, what is on the wire, what is tried again.
//!
//! Invariant: every message accepted by [`Direct::push`] ends in exactly one of acknowledged, reported as failed, or
//! dropped with its peer by [`Direct::drop_peer`] (whose list the driver reports); at most four are on the wire
//! towards one peer.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use libp2p::PeerId;
use libp2p::request_response::OutboundRequestId;
use tributary_protocol::id::NodeId;

use super::SendId;
use crate::net::NetError;
use crate::net::limits::{
    DIRECT_ATTEMPTS, DIRECT_IN_FLIGHT, DIRECT_QUEUE, DIRECT_QUEUE_BYTES, DIRECT_QUEUE_PEERS, UPKEEP_INTERVAL,
};

/// One message.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) id: SendId,
    pub(super) node: NodeId,
    pub(super) bytes: Bytes,
    attempts: u8,
}

/// What a failed attempt means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is queued again.
    Retry,
    /// It was the last attempt.
    GaveUp { node: NodeId, id: SendId },
}

#[derive(Debug, Default)]
struct Queue {
    parcels: VecDeque<Parcel>,
    bytes: usize,
    in_flight: usize,
    /// Nothing is sent before this.
    held_until: Option<Instant>,
}

impl Queue {
    fn put_back(&mut self, parcel: Parcel) {
        self.bytes += parcel.bytes.len();
        self.parcels.push_front(parcel);
    }

    fn is_held(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }
}

/// All queues.
#[derive(Debug, Default)]
pub(super) struct Direct {
    queues: BTreeMap<PeerId, Queue>,
    in_flight: BTreeMap<OutboundRequestId, (PeerId, Parcel)>,
    last_id: u64,
}

impl Direct {
    /// Queues a message.
    pub(super) fn push(&mut self, peer: PeerId, node: NodeId, bytes: Bytes) -> Result<SendId, NetError> {
        let busy = NetError::Busy { to: node };
        if !self.queues.contains_key(&peer) && self.queues.len() >= DIRECT_QUEUE_PEERS {
            return Err(busy);
        }
        let queue = self.queues.entry(peer).or_default();
        if queue.parcels.len() >= DIRECT_QUEUE || queue.bytes.saturating_add(bytes.len()) > DIRECT_QUEUE_BYTES {
            return Err(busy);
        }
        self.last_id += 1;
        let id = SendId(self.last_id);
        queue.bytes += bytes.len();
        queue.parcels.push_back(Parcel { id, node, bytes, attempts: 0 });
        Ok(id)
    }

    /// The next message to put on the wire to `peer`; follow with [`Direct::sent`].
    pub(super) fn next(&mut self, peer: &PeerId, now: Instant) -> Option<Parcel> {
        let queue = self.queues.get_mut(peer)?;
        if queue.in_flight >= DIRECT_IN_FLIGHT || queue.is_held(now) {
            return None;
        }
        let mut parcel = queue.parcels.pop_front()?;
        queue.bytes -= parcel.bytes.len();
        queue.in_flight += 1;
        parcel.attempts += 1;
        Some(parcel)
    }

    /// `parcel` travels as `request`.
    pub(super) fn sent(&mut self, request: OutboundRequestId, peer: PeerId, parcel: Parcel) {
        self.in_flight.insert(request, (peer, parcel));
    }

    /// The receiver has it.
    pub(super) fn acknowledged(&mut self, request: OutboundRequestId) {
        if let Some((peer, _)) = self.landed(request) {
            self.forget_if_idle(&peer);
        }
    }

    /// An attempt failed. With `again`, and attempts left, it is queued once more, after a pause.
    pub(super) fn failed(&mut self, request: OutboundRequestId, again: bool, now: Instant) -> Option<Outcome> {
        let (peer, parcel) = self.landed(request)?;
        if !again || parcel.attempts >= DIRECT_ATTEMPTS {
            self.forget_if_idle(&peer);
            return Some(Outcome::GaveUp { node: parcel.node, id: parcel.id });
        }
        let queue = self.queues.entry(peer).or_default();
        queue.held_until = Some(now + UPKEEP_INTERVAL * u32::from(parcel.attempts));
        queue.put_back(parcel);
        Some(Outcome::Retry)
    }

    /// Sends to `peer` without further pause: it has just connected.
    pub(super) fn release(&mut self, peer: &PeerId) {
        if let Some(queue) = self.queues.get_mut(peer) {
            queue.held_until = None;
        }
    }

    /// Peers with something to send now.
    pub(super) fn ready(&self, now: Instant) -> Vec<PeerId> {
        let ready = |queue: &Queue| !queue.parcels.is_empty() && !queue.is_held(now);
        self.queues.iter().filter(|(_, queue)| ready(queue)).map(|(peer, _)| *peer).collect()
    }

    /// Gives up all that waits for `peer`. What is on the wire fails by itself.
    pub(super) fn drop_peer(&mut self, peer: &PeerId) -> Vec<(NodeId, SendId)> {
        let Some(queue) = self.queues.get_mut(peer) else { return Vec::new() };
        queue.bytes = 0;
        let dropped = queue.parcels.drain(..).map(|parcel| (parcel.node, parcel.id)).collect();
        self.forget_if_idle(peer);
        dropped
    }

    fn landed(&mut self, request: OutboundRequestId) -> Option<(PeerId, Parcel)> {
        let (peer, parcel) = self.in_flight.remove(&request)?;
        if let Some(queue) = self.queues.get_mut(&peer) {
            queue.in_flight = queue.in_flight.saturating_sub(1);
        }
        Some((peer, parcel))
    }

    fn forget_if_idle(&mut self, peer: &PeerId) {
        if self.queues.get(peer).is_some_and(|queue| queue.parcels.is_empty() && queue.in_flight == 0) {
            self.queues.remove(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use bytes::Bytes;
    use libp2p::PeerId;
    use tributary_protocol::id::NodeId;

    use super::Direct;
    use crate::net::NetError;
    use crate::net::limits::{DIRECT_IN_FLIGHT, DIRECT_MAX_BYTES, DIRECT_QUEUE, DIRECT_QUEUE_BYTES};

    const NODE: NodeId = NodeId([7; 32]);

    #[test]
    fn order_is_kept_and_the_wire_takes_four() {
        let (mut direct, peer, now) = (Direct::default(), PeerId::random(), Instant::now());
        let ids: Vec<_> = (0..6).map(|_| direct.push(peer, NODE, Bytes::from_static(b"x")).unwrap()).collect();
        let sent: Vec<_> = std::iter::from_fn(|| direct.next(&peer, now)).map(|parcel| parcel.id).collect();
        assert_eq!(sent, ids[..DIRECT_IN_FLIGHT]);
        assert_eq!(direct.drop_peer(&peer).len(), 2);
    }

    #[test]
    fn a_queue_is_bounded_in_number_and_bytes() {
        let (mut direct, peer) = (Direct::default(), PeerId::random());
        for _ in 0..DIRECT_QUEUE {
            direct.push(peer, NODE, Bytes::new()).unwrap();
        }
        assert_eq!(direct.push(peer, NODE, Bytes::new()), Err(NetError::Busy { to: NODE }));
        let (other, large) = (PeerId::random(), Bytes::from(vec![0; DIRECT_MAX_BYTES]));
        for _ in 0..DIRECT_QUEUE_BYTES / DIRECT_MAX_BYTES {
            direct.push(other, NODE, large.clone()).unwrap();
        }
        assert_eq!(direct.push(other, NODE, large), Err(NetError::Busy { to: NODE }));
    }
}
