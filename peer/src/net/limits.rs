//! Every bound of the network drivers, with its reason. Bounds on the content of messages are in
//! `tributary_protocol`; these are about sockets, queues and time.

use std::time::Duration;

/// Larger things are blobs, and gossip carries their hash.
pub use tributary_protocol::limits::GOSSIP_MAX_BYTES;
/// What gossipsub adds around a payload (topic name, protobuf tags); its own limit counts the whole.
pub const GOSSIP_OVERHEAD_BYTES: usize = 1 << 10;
/// Bytes of one direct message: design, section 4.
pub const DIRECT_MAX_BYTES: usize = 1 << 20;
/// Direct messages on the wire towards one peer at a time: a slow peer ties up 4 MiB at most.
pub const DIRECT_IN_FLIGHT: usize = 4;
/// Direct messages waiting behind those, per peer: a burst of a whole task's messages fits.
pub const DIRECT_QUEUE: usize = 128;
/// Bytes waiting per peer, so that 128 large messages do not take 128 MiB.
pub const DIRECT_QUEUE_BYTES: usize = 8 << 20;
/// Peers with something waiting: more than the connections allowed, since some are being dialled.
pub const DIRECT_QUEUE_PEERS: usize = 512;
/// Attempts to deliver one direct message: the second follows a look-up of the peer's newest address, or
/// takes the fresh connection of a peer that was restarted.
pub const DIRECT_ATTEMPTS: u8 = 3;
/// Time for one direct message to be acknowledged; the largest passes a 1 Mbit/s line in 8.4 s.
pub const DIRECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Gossip messages kept until somebody subscribes to their topic: a node publishes before its mesh stands.
pub const GOSSIP_WAITING: usize = 256;
/// How long such a message is kept: the envelope's clock window is two minutes, half of it is left for travel.
pub const GOSSIP_WAITING_TIME: Duration = Duration::from_secs(60);
/// Topics one peer may subscribe to and we hold: gossipsub's own default.
pub const GOSSIP_TOPICS: usize = 100;
/// How long an id of a seen message is kept, so that it is not delivered twice: longer than the clock window.
pub const GOSSIP_SEEN_TIME: Duration = Duration::from_secs(300);
/// Commands waiting for the control driver.
pub const COMMAND_QUEUE: usize = 256;
/// Events waiting for the node in the channel.
pub const EVENT_QUEUE: usize = 256;
/// Messages waiting behind the channel while the node is busy; further ones are refused, so their sender
/// learns it and tries again.
pub const EVENT_BACKLOG: usize = 1024;
/// All events waiting, connection changes included; beyond it the swarm is not polled until the node reads.
pub const EVENT_BACKLOG_HARD: usize = 4096;
/// Inbound messages a second and peer, in tokens; one message costs one token and one more for each 4 KiB.
pub const INBOUND_TOKENS_PER_SECOND: u32 = 128;
/// Tokens a quiet peer saves up: the burst of a finished task with its receipts.
pub const INBOUND_TOKENS_MAX: u32 = 1024;
/// Bytes that one token pays for.
pub const INBOUND_TOKEN_BYTES: usize = 4 << 10;
/// Established connections from others: file descriptors and memory of a small machine.
pub const CONNECTIONS_IN: u32 = 256;
/// Established connections to others.
pub const CONNECTIONS_OUT: u32 = 128;
/// Handshakes in progress in each direction: what a flood of new connections may cost.
pub const CONNECTIONS_PENDING: u32 = 64;
/// Connections to one peer: two when both sides dial at once, and the two of its former life.
pub const CONNECTIONS_PER_PEER: u32 = 4;
/// Share of the machine's memory above which no new connection is taken.
pub const MEMORY_SHARE: f64 = 0.9;
/// A connection without any stream is kept this long: reconnecting costs more than an idle QUIC connection.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Below this number of peers the driver dials further ones that the DHT knows, so that a network of a
/// dozen is fully connected and survives the loss of its bootstrap node.
pub const PEERS_WANTED: usize = 12;
/// How often it looks for them, and for addresses to dial again.
pub const UPKEEP_INTERVAL: Duration = Duration::from_millis(500);
/// DHT queries running for us at once.
pub const QUERIES_MAX: usize = 64;
/// Providers kept for one key, and returned by a query.
pub const PROVIDERS_MAX: usize = 20;
/// Banned peers remembered; the oldest is forgotten for a newer one.
pub const BANNED_MAX: usize = 65_536;
/// Addresses kept per peer: design, section 4.
pub const PEER_ADDRESSES: usize = 16;
/// First pause before a bootstrap peer is dialled again; it doubles up to the next.
pub const REDIAL_FIRST: Duration = Duration::from_millis(250);
/// Longest pause between two attempts.
pub const REDIAL_LAST: Duration = Duration::from_secs(15);
/// The same for a peer that is only remembered: one that is gone for good costs a dial every five minutes, and one
/// that comes back dials us at once.
pub const REDIAL_KNOWN_LAST: Duration = Duration::from_secs(300);
/// Peers remembered over restarts: ten times what a restarted node needs to find the others through the DHT, in a file
/// of a few kilobytes.
pub const KNOWN_PEERS: usize = 64;
/// Addresses remembered of each: QUIC and TCP on four interfaces.
pub const KNOWN_ADDRESSES: usize = 8;
/// How often the peers that are connected are noted as seen, so that a kill makes nobody look long gone.
pub const KNOWN_REFRESH: Duration = Duration::from_secs(600);
/// Time for a peer to answer that a user wants to meet: a handshake over a poor line, with one address of two dead.
pub const MEET_TIMEOUT: Duration = Duration::from_secs(12);
/// Draws of a free port before giving up: with half of them taken, one in 2⁶⁴ starts fails.
pub const PORT_DRAWS: usize = 64;
/// Bootstrap addresses a node keeps dialling.
pub const BOOTSTRAP_MAX: usize = 64;
/// Time for all listeners to report their addresses at the start.
pub const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that closing connections may take at the end.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
/// A QUIC connection over which nothing comes is dead after this: three keep-alives are lost by then.
pub const QUIC_IDLE: Duration = Duration::from_secs(10);
/// Keep-alive interval of all QUIC connections.
pub const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(3);

/// Stream receive window of the data plane: noq 1.4.0 aborts connections at 4 MiB and more ("too many gaps in
/// stream buffer", measured 5 of 5 runs), 1.25 MiB never did.
pub const DATA_STREAM_WINDOW_BYTES: u32 = 1_310_720;
/// Streams one peer may hold open on a data connection.
pub const DATA_STREAMS: u32 = 64;
/// Data connections kept open for reuse.
pub const DATA_CONNECTIONS: usize = 256;
/// Time to connect to a data peer.
pub const DATA_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A provider that sends nothing for this long is left for the next: design, section 5.
pub const FETCH_PROGRESS: Duration = Duration::from_secs(5);
/// Providers asked for one blob before giving up.
pub const FETCH_PROVIDERS: usize = 16;
/// Addresses published for one node's data endpoint: with those of its lane they fit the sixteen of a peer record.
pub const DATA_ADDRESSES: usize = 8;
/// Peers whose data addresses are remembered.
pub const DATA_PEERS: usize = 4096;
/// Bytes of one frame of an answer stream: a prompt fits, a token is far smaller.
pub const ANSWER_FRAME_BYTES: usize = 64 << 10;
/// Accepted answer streams waiting for the node; further ones are refused.
pub const ANSWER_QUEUE: usize = 32;
/// Time for the other side to greet on a new answer stream.
pub const ANSWER_GREETING: Duration = Duration::from_secs(5);

/// Bytes of one range of the fast lane: the subtree that is checked at once (1,024 BLAKE3 chunks).
pub const LANE_RANGE_BYTES: u64 = 1 << 20;
/// Ranges in flight for one blob: 8 MiB fill 1 Gbit/s at 64 ms.
pub const LANE_RANGES: usize = 8;
/// Largest blob of the fast lane: its outline of 32 bytes a range stays at 512 KiB. iroh carries larger ones.
pub const LANE_MAX_BYTES: u64 = 16 << 30;
/// Outlines kept in memory, so that a blob is hashed once and not for each downloader.
pub const LANE_OUTLINES: usize = 64;
/// Connections the fast lane serves at once.
pub const LANE_CONNECTIONS: usize = 128;
/// Addresses of one node's lane that are published and tried at once: it is for peers that are near.
pub const LANE_ADDRESSES: usize = 4;
/// Largest UDP payload tried on the fast lane: 4,000 was fastest on loopback, 8,952 slower (measured).
pub const LANE_MTU_BYTES: u16 = 4000;
