//! Who falsifies weights or rows in a live network is caught and proven by nodes that did not serve the answer.
//!
//! This program is also the liar: as `up` it is the whole node from the library, as `engine` it stands between that node
//! and the true engine and changes the credits of finished answers and the commitments of indexes, once a file of that
//! name lies in the engine's folder. A node starts its own program as its engine, so nothing in the product knows of this.

use std::process::ExitCode;

// The attribute tells clippy what cargo knows: everything here is a test.
#[cfg(test)]
#[path = "liar/scenario.rs"]
mod scenario;

fn main() -> ExitCode {
    scenario::main()
}
