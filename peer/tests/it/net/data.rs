//! Blobs and answers between data planes, and from providers that fail in every way.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use iroh::endpoint::{Connection, presets};
use iroh::protocol::{AcceptError, ProtocolHandler, Router};
use iroh::{Endpoint, EndpointAddr, RelayMode, SecretKey};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tributary_peer::net::NetError;
use tributary_peer::net::data::{AnswerError, AnswerStream, DataConfig, DataPlane, FetchError, ProviderFault};
use tributary_peer::net::identity::node_id;
use tributary_protocol::id::{Hash, NodeId};
use tributary_storage::blobs::{BlobStore, IrohBlobs};

use super::DEADLINE;

pub const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A data plane with its own store.
pub struct Plane {
    pub plane: DataPlane,
    pub answers: mpsc::Receiver<AnswerStream>,
    pub store: IrohBlobs,
    _folder: TempDir,
}

impl Plane {
    pub async fn start(number: u8, lane: Option<SocketAddr>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = IrohBlobs::open(folder.path()).await.unwrap();
        let config = DataConfig { node_seed: [number; 32], bind: ANY_PORT, store: store.clone(), lane };
        let (plane, answers) = DataPlane::start(config).await.unwrap();
        Self { plane, answers, store, _folder: folder }
    }

    pub fn node(&self) -> NodeId {
        self.plane.node_id()
    }

    /// Tells this one where the other is.
    pub fn knows(&self, other: &Self) {
        self.plane.add_peer_addr(other.node(), &other.plane.local_addrs()).unwrap();
    }

    /// Takes the next answer stream.
    pub async fn answer(&mut self) -> AnswerStream {
        tokio::time::timeout(DEADLINE, self.answers.recv()).await.unwrap().unwrap()
    }
}

/// Bytes that differ from range to range.
pub fn blob(size: u64) -> Bytes {
    (0..size).map(|index| u8::try_from((index * 31 + index / 4099) % 251).unwrap()).collect()
}

/// What a hostile provider does with each connection.
#[derive(Debug, Clone, Copy)]
enum Malice {
    /// Claims a small size and sends other bytes.
    Corrupt,
    /// Claims the largest size there is.
    Bomb,
    /// Says nothing.
    Silence,
}

impl ProtocolHandler for Malice {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        while let Ok((mut answer, mut request)) = connection.accept_bi().await {
            // What is asked does not matter.
            let _ = request.read_to_end(1 << 16).await;
            let size: u64 = match self {
                Self::Corrupt => 3000,
                Self::Bomb => u64::MAX,
                Self::Silence => {
                    connection.closed().await;
                    return Ok(());
                }
            };
            let sent = async {
                answer.write_all(&size.to_le_bytes()).await?;
                answer.write_all(&vec![0xee; 1 << 16]).await
            };
            // The victim hangs up as soon as it notices.
            let _ = sent.await;
            let _ = answer.finish();
        }
        Ok(())
    }
}

/// A bare iroh endpoint with the seed `[number; 32]`.
async fn bare(number: u8) -> Endpoint {
    Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&[number; 32]))
        .relay_mode(RelayMode::Disabled)
        .clear_ip_transports()
        .bind_addr(ANY_PORT)
        .unwrap()
        .bind()
        .await
        .unwrap()
}

/// A hostile provider that `victim` knows.
async fn malicious(number: u8, malice: Malice, victim: &Plane) -> (NodeId, Router) {
    let endpoint = bare(number).await;
    let node = node_id(&[number; 32]);
    victim.plane.add_peer_addr(node, &endpoint.bound_sockets()).unwrap();
    (node, Router::builder(endpoint).accept(iroh_blobs::ALPN, malice).spawn())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_provider_helps_when_the_first_lacks_the_blob() {
    let (seeker, without, with) =
        (Plane::start(1, None).await, Plane::start(2, None).await, Plane::start(3, None).await);
    seeker.knows(&without);
    seeker.knows(&with);
    for size in [0, 1, 16 << 10, 3 << 20] {
        let bytes = blob(size);
        let hash = with.store.put(bytes.clone()).await.unwrap();
        let providers = [without.node(), with.node()];
        assert_eq!(seeker.plane.fetch(hash, &providers, 10 << 20).await.unwrap(), size);
        assert_eq!(seeker.store.get(hash).await.unwrap(), Some(bytes));
        assert_eq!(seeker.plane.fetch(hash, &[], 10 << 20).await.unwrap(), size, "it is here now");
    }
    let nowhere = Hash::of(b"nowhere");
    let error = seeker.plane.fetch(nowhere, &[without.node(), seeker.node()], 100).await.unwrap_err();
    let FetchError::Exhausted { hash, faults } = error else { panic!("{error}") };
    assert_eq!((hash, faults), (nowhere, vec![(without.node(), ProviderFault::Missing)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_and_absent_providers_are_left_for_the_honest_one() {
    let (seeker, honest) = (Plane::start(4, None).await, Plane::start(5, None).await);
    seeker.knows(&honest);
    let (corrupt, _corrupt) = malicious(6, Malice::Corrupt, &seeker).await;
    let (bomb, _bomb) = malicious(7, Malice::Bomb, &seeker).await;
    let (silent, _silent) = malicious(8, Malice::Silence, &seeker).await;
    let absent = node_id(&[9; 32]);
    let hash = honest.store.put(blob(3000)).await.unwrap();
    let providers = [corrupt, bomb, silent, absent];
    let error = seeker.plane.fetch(hash, &providers, 1 << 20).await.unwrap_err();
    let FetchError::Exhausted { faults, .. } = error else { panic!("{error}") };
    let nodes: Vec<_> = faults.iter().map(|(node, _)| *node).collect();
    assert_eq!(nodes, providers);
    assert_eq!(faults[0].1, ProviderFault::Corrupt);
    assert!(matches!(faults[1].1, ProviderFault::Corrupt | ProviderFault::Missing), "{:?}", faults[1]);
    assert_eq!(faults[2].1, ProviderFault::Stalled);
    assert!(matches!(faults[3].1, ProviderFault::Unreachable { .. }));
    assert_eq!(seeker.plane.fetch(hash, &[corrupt, honest.node()], 1 << 20).await.unwrap(), 3000);
    assert_eq!(seeker.store.get(hash).await.unwrap(), Some(blob(3000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_above_the_bound_is_refused_before_it_is_downloaded() {
    let (seeker, provider) = (Plane::start(10, None).await, Plane::start(11, None).await);
    seeker.knows(&provider);
    let hash = provider.store.put(blob(100_000)).await.unwrap();
    let error = seeker.plane.fetch(hash, &[provider.node()], 99_999).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { size_bytes: 100_000, limit_bytes: 99_999, .. }), "{error}");
    assert!(!seeker.store.has(hash).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_peer_gets_neither_blobs_nor_answers() {
    let (seeker, provider) = (Plane::start(12, None).await, Plane::start(13, None).await);
    seeker.knows(&provider);
    let first = provider.store.put(blob(100)).await.unwrap();
    let second = provider.store.put(blob(200)).await.unwrap();
    seeker.plane.fetch(first, &[provider.node()], 1000).await.unwrap();
    provider.plane.ban(seeker.node());
    seeker.plane.fetch(second, &[provider.node()], 1000).await.unwrap_err();
    seeker.plane.open_answer(provider.node()).await.unwrap_err();
    provider.plane.unban(seeker.node());
    seeker.plane.fetch(second, &[provider.node()], 1000).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_streams_both_ways_until_both_have_finished() {
    let (asker, mut worker) = (Plane::start(14, None).await, Plane::start(15, None).await);
    asker.knows(&worker);
    let mut question = asker.plane.open_answer(worker.node()).await.unwrap();
    assert_eq!(question.from, worker.node());
    let mut job = worker.answer().await;
    assert_eq!(job.from, asker.node());
    question.send("what is a mill wheel?").await.unwrap();
    question.finish();
    assert_eq!(job.recv().await.unwrap().unwrap(), "what is a mill wheel?");
    assert_eq!(job.recv().await.unwrap(), None);
    for token in ["a", "", " wheel"] {
        job.send(token).await.unwrap();
        assert_eq!(question.recv().await.unwrap().unwrap(), token);
    }
    let largest = vec![1; 64 << 10];
    job.send(largest.clone()).await.unwrap();
    let too_large = AnswerError::TooLarge { size: (64 << 10) + 1, limit: 64 << 10 };
    assert_eq!(job.send(vec![1; (64 << 10) + 1]).await, Err(too_large));
    job.finish();
    drop(job);
    assert_eq!(question.recv().await.unwrap().unwrap(), largest);
    assert_eq!(question.recv().await.unwrap(), None);
    assert_eq!(question.recv().await.unwrap(), None, "asking again changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_either_end_cancels_the_other() {
    let (asker, mut worker) = (Plane::start(16, None).await, Plane::start(17, None).await);
    asker.knows(&worker);
    let question = asker.plane.open_answer(worker.node()).await.unwrap();
    let mut job = worker.answer().await;
    drop(question);
    tokio::time::timeout(DEADLINE, job.cancelled()).await.unwrap();
    assert_eq!(job.send("too late").await, Err(AnswerError::Cancelled));
    assert_eq!(job.recv().await, Err(AnswerError::Cancelled));

    let question = asker.plane.open_answer(worker.node()).await.unwrap();
    let mut job = worker.answer().await;
    job.send("half an").await.unwrap();
    drop(job);
    let (sender, mut receiver) = question.split();
    let mut frames = Vec::new();
    // The reset may overtake the frame.
    let end = loop {
        match receiver.recv().await {
            Ok(Some(frame)) => frames.push(frame),
            end => break end,
        }
    };
    assert_eq!(end, Err(AnswerError::Cancelled));
    assert!(frames.len() <= 1);
    tokio::time::timeout(DEADLINE, sender.cancelled()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_breaks_the_stream_and_is_found_again_elsewhere() {
    let (asker, mut worker) = (Plane::start(18, None).await, Plane::start(19, None).await);
    asker.knows(&worker);
    let mut question = asker.plane.open_answer(worker.node()).await.unwrap();
    let _job = worker.answer().await;
    worker.plane.shutdown().await;
    let broken = tokio::time::timeout(DEADLINE, question.recv()).await.unwrap();
    assert!(matches!(broken, Err(AnswerError::Lost { .. } | AnswerError::Cancelled)), "{broken:?}");
    let mut again = Plane::start(19, None).await;
    asker.knows(&again);
    let mut question = asker.plane.open_answer(again.node()).await.unwrap();
    let mut job = again.answer().await;
    job.send("here again").await.unwrap();
    assert_eq!(question.recv().await.unwrap().unwrap(), "here again");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_an_answer_stream_is_an_error_of_that_stream_alone() {
    let mut worker = Plane::start(20, None).await;
    let endpoint = bare(21).await;
    let id = SecretKey::from_bytes(&[20; 32]).public();
    let addr = worker.plane.local_addrs().into_iter().fold(EndpointAddr::new(id), EndpointAddr::with_ip_addr);
    let connection = endpoint.connect(addr, b"tributary/answer/1").await.unwrap();
    for (garbage, complaint) in [
        (b"\x01\xff\xff\xff\xff".as_slice(), AnswerError::TooLarge { size: 0xffff_ffff, limit: 64 << 10 }),
        (b"\x01\0\0\0\x09short", AnswerError::Truncated),
        (b"\x01\0\0", AnswerError::Truncated),
    ] {
        let (mut sending, _receiving) = connection.open_bi().await.unwrap();
        sending.write_all(garbage).await.unwrap();
        sending.finish().unwrap();
        assert_eq!(worker.answer().await.recv().await, Err(complaint));
    }
    let (mut sending, mut receiving) = connection.open_bi().await.unwrap();
    sending.write_all(b"\x07").await.unwrap();
    receiving.read_to_end(10).await.unwrap_err();
    let asker = Plane::start(22, None).await;
    asker.knows(&worker);
    asker.plane.open_answer(worker.node()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_of_answers_says_busy() {
    let (asker, worker) = (Plane::start(23, None).await, Plane::start(24, None).await);
    asker.knows(&worker);
    let mut open = Vec::new();
    let refused = loop {
        match asker.plane.open_answer(worker.node()).await {
            Ok(stream) => open.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, NetError::Busy { to: worker.node() });
    assert_eq!(open.len(), 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn taken_data_ports_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = IrohBlobs::open(folder.path()).await.unwrap();
    let taken = std::net::UdpSocket::bind(ANY_PORT).unwrap();
    let addr = taken.local_addr().unwrap();
    let start = |bind, lane| DataPlane::start(DataConfig { node_seed: [25; 32], bind, store: store.clone(), lane });
    assert_eq!(start(addr, None).await.unwrap_err(), NetError::PortInUse { addr });
    assert_eq!(start(ANY_PORT, Some(addr)).await.unwrap_err(), NetError::PortInUse { addr });
}
