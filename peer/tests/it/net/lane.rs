//! The fast lane between two data planes. A provider whose iroh address is unknown can only have sent by its lane.

use tributary_peer::net::data::{FetchError, ProviderFault};
use tributary_peer::net::identity::node_id;
use tributary_protocol::id::Hash;
use tributary_storage::blobs::BlobStore;

use super::data::{ANY_PORT, Plane, blob};
use super::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_every_shape_come_by_the_lane_alone() {
    let (seeker, provider) = (Plane::start(1, Some(ANY_PORT)).await, Plane::start(2, Some(ANY_PORT)).await);
    seeker.plane.add_lane_addrs(provider.node(), &provider.plane.lane_addrs());
    for size in [0, 1, 1 << 20, (1 << 20) + 1, (11 << 20) + 12_345] {
        let bytes = blob(size);
        let hash = provider.store.put(bytes.clone()).await.unwrap();
        // A starved machine may miss the lane's short patience; there is no other way for the bytes.
        let (plane, providers) = (&seeker.plane, [provider.node()]);
        eventually("the blob", || async move { plane.fetch(hash, &providers, 1 << 30).await.ok() == Some(size) }).await;
        assert_eq!(seeker.store.get(hash).await.unwrap(), Some(bytes), "size {size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_belongs_to_another_key_or_to_nobody_is_passed_over_for_iroh() {
    let (seeker, provider) = (Plane::start(3, Some(ANY_PORT)).await, Plane::start(4, Some(ANY_PORT)).await);
    let impostor = Plane::start(5, Some(ANY_PORT)).await;
    let hash = provider.store.put(blob(2 << 20)).await.unwrap();
    impostor.store.put(blob(2 << 20)).await.unwrap();
    seeker.plane.add_lane_addrs(provider.node(), &impostor.plane.lane_addrs());
    let error = seeker.plane.fetch(hash, &[provider.node()], 4 << 20).await.unwrap_err();
    let FetchError::Exhausted { faults, .. } = error else { panic!("{error}") };
    assert!(matches!(faults[0].1, ProviderFault::Unreachable { .. }), "{faults:?}");
    seeker.knows(&provider);
    assert_eq!(seeker.plane.fetch(hash, &[provider.node()], 4 << 20).await.unwrap(), 2 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lane_keeps_the_bounds_and_the_bans_of_the_plane() {
    let (seeker, provider) = (Plane::start(6, Some(ANY_PORT)).await, Plane::start(7, Some(ANY_PORT)).await);
    seeker.plane.add_lane_addrs(provider.node(), &provider.plane.lane_addrs());
    let hash = provider.store.put(blob(3 << 20)).await.unwrap();
    seeker.plane.fetch(hash, &[provider.node()], (3 << 20) - 1).await.unwrap_err();
    seeker.knows(&provider);
    let error = seeker.plane.fetch(hash, &[provider.node()], (3 << 20) - 1).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { .. }), "{error}");
    assert!(!seeker.store.has(hash).await.unwrap());
    provider.plane.ban(seeker.node());
    seeker.plane.fetch(hash, &[provider.node()], 4 << 20).await.unwrap_err();
    provider.plane.unban(seeker.node());
    assert_eq!(seeker.plane.fetch(hash, &[provider.node()], 4 << 20).await.unwrap(), 3 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_without_the_blob_says_so_and_the_next_provider_is_asked() {
    let (seeker, without) = (Plane::start(8, Some(ANY_PORT)).await, Plane::start(9, Some(ANY_PORT)).await);
    let with = Plane::start(10, None).await;
    seeker.plane.add_lane_addrs(without.node(), &without.plane.lane_addrs());
    seeker.knows(&without);
    seeker.knows(&with);
    let hash = with.store.put(blob(5000)).await.unwrap();
    assert_eq!(seeker.plane.fetch(hash, &[without.node(), with.node()], 10_000).await.unwrap(), 5000);
    let nowhere = seeker.plane.fetch(Hash::of(b"x"), &[without.node(), node_id(&[11; 32])], 10).await.unwrap_err();
    let FetchError::Exhausted { faults, .. } = nowhere else { panic!("{nowhere}") };
    assert_eq!(faults[0], (without.node(), ProviderFault::Missing));
}
