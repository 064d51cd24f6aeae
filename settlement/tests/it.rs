//! The settlement crate end to end: real contracts on the embedded chain, in process and over HTTP.

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
