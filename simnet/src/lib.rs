//! Discrete-event simulation of whole networks: virtual time, links that fail, peers that crash or lie.
//!
//! Architecture invariant: the simulated peers are `tributary_protocol::node::Node`, the very state machine that
//! the real peer drives; only what drivers do (sockets, disks, computation, the chain) is simulated here. A world
//! reads no clock and no ambient randomness: one seed gives one history, byte for byte.

pub mod behaviour;
pub mod chain;
pub mod chance;
pub mod invariant;
pub mod link;
pub mod report;
pub mod scenario;
pub mod world;

mod host;
mod work;

pub use self::report::Report;
pub use self::scenario::Scenario;
pub use self::world::World;
