//! The node: network drivers, the runtime that drives the protocol, and what a user can ask of it.

pub mod net;
