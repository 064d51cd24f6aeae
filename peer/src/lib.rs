//! The node: network drivers, jobs, money, API and command line around `tributary_protocol`'s state machine.
//!
//! Architecture invariant: the rules live in `protocol`; this crate moves bytes, starts jobs and shows results.
//! Only `net` knows libp2p, iroh and quinn; only `engine`, and `cli::eval` in a process of
//! its own, runs models; only `settle` sends transactions.

pub mod answers;
pub mod bases;
pub mod bundle;
pub mod cards;
pub mod chainserve;
pub mod cli;
pub mod client;
pub mod curves;
pub mod demo;
pub mod engine;
pub mod evidence;
pub mod handle;
pub mod home;
pub mod http;
pub mod hub;
pub mod licence;
mod lock;
pub mod names;
pub mod net;
mod percent;
pub mod receiptfile;
pub mod retrieval;
pub mod runs;
pub mod runtime;
pub mod settle;
pub mod traffic;
pub mod up;
pub mod work;
