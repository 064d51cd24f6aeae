//! The settlement crate end to end: real contracts on the embedded chain, in process and over HTTP.

// The attribute tells clippy what cargo knows: everything here is a test.
#[cfg(test)]
mod it {
    mod disputes;
    mod hostile;
    mod kit;
    mod outage;
    mod persistence;
    mod queue;
    mod roots;
    mod scenario;
}
