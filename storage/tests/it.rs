//! What the crate does through its public face: files to records to shards to blobs, and what survives a crash.

#[path = "it/blobs.rs"]
mod blobs;
#[path = "it/crash.rs"]
mod crash;
#[path = "it/hostile.rs"]
mod hostile;
#[path = "it/way_of_a_record.rs"]
mod way_of_a_record;
