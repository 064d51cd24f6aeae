//! The wire as others see it: golden bytes, properties, replays, receipts and a bounded fuzz of every message; and the
//! market between a few nodes.

#[path = "it/bounds.rs"]
mod bounds;
#[path = "it/datanet.rs"]
mod datanet;
#[path = "../fuzz/src/lib.rs"]
mod fuzz;
#[path = "it/golden.rs"]
mod golden;
#[path = "it/market.rs"]
mod market;
#[path = "it/notes.rs"]
mod notes;
#[path = "it/properties.rs"]
mod properties;
#[path = "it/receipt.rs"]
mod receipt;
#[path = "it/replay.rs"]
mod replay;
#[path = "it/samples.rs"]
mod samples;
#[path = "it/smoke.rs"]
mod smoke;
