//! The node's drivers and the node itself, over real sockets and folders.

// The attribute tells clippy what cargo knows: everything here is a test.
#[cfg(test)]
mod it {
    mod cards;
    mod claims;
    mod cli;
    mod clusters;
    mod demo;
    mod doubts;
    mod engine;
    mod entry;
    mod evidence;
    mod heal;
    mod listening;
    mod logprobs;
    mod market;
    mod models;
    mod net;
    mod nodes;
    mod retrieval;
    mod settling;
    mod sharing;
    mod stopping;
    mod support;
    mod training;
}
