//! Honest control planes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use tributary_peer::net::NetError;
use tributary_peer::net::control::{Control, ControlConfig, ControlEvent, SendFailure};
use tributary_peer::net::identity::node_id;
use tributary_protocol::id::Hash;

use super::{NETWORK, Peer, eventually};

/// `count` nodes of which the first is everybody's bootstrap, connected each with each.
async fn mesh(first: u8, count: u8) -> Vec<Peer> {
    let mut peers = vec![Peer::start(first, &[]).await];
    let bootstrap = peers[0].addresses().await;
    for number in 1..count {
        peers.push(Peer::start(first + number, &bootstrap).await);
    }
    for peer in &peers {
        let control = &peer.control;
        eventually("a full mesh", || async move { control.peers().await.unwrap().len() == usize::from(count) - 1 })
            .await;
    }
    peers
}

#[tokio::test(flavor = "multi_thread")]
async fn gossip_of_each_of_five_reaches_all_others() {
    let mut peers = mesh(10, 5).await;
    for peer in &peers {
        peer.control.subscribe("heads").await.unwrap();
    }
    // Subscriptions travel: probes until everybody hears them.
    for listener in 1..peers.len() {
        let speaker = peers[0].control.clone();
        let probing = async {
            for number in 0.. {
                speaker.publish("heads", format!("probe {listener} {number}")).await.unwrap();
                tokio::time::sleep(super::LOOK).await;
            }
        };
        tokio::select! {
            () = probing => {}
            () = peers[listener].until("a probe", |event| {
                matches!(event, ControlEvent::Message { gossip: Some(_), .. }).then_some(())
            }) => {}
        }
    }
    let texts: Vec<_> = (0..peers.len()).map(|number| format!("head of {number}")).collect();
    for (peer, text) in peers.iter().zip(&texts) {
        let id = peer.control.publish("heads", text.clone()).await.unwrap();
        assert_eq!(id.topic(), "heads");
        assert_eq!(peer.control.publish("heads", text.clone()).await.unwrap(), id, "again is no error");
    }
    for (own, peer) in peers.iter_mut().enumerate() {
        let others: Vec<_> =
            texts.iter().enumerate().filter(|(of, _)| *of != own).map(|(_, text)| text.clone()).collect();
        peer.gossip(&others).await;
    }
    for peer in &peers {
        peer.control.shutdown().await;
        assert_eq!(peer.control.peers().await, Err(NetError::Closed));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gossip_published_to_nobody_goes_out_when_somebody_subscribes() {
    let early = Peer::start(20, &[]).await;
    early.control.subscribe("heads").await.unwrap();
    early.control.publish("heads", "early").await.unwrap();
    let mut late = Peer::start(21, &early.addresses().await).await;
    late.control.subscribe("heads").await.unwrap();
    late.gossip(&["early".to_owned()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_messages_arrive_small_and_large_and_in_bursts() {
    let mut first = Peer::start(30, &[]).await;
    let second = Peer::start(31, &first.addresses().await).await;
    second.control.send(first.node(), "before the connection stands").await.unwrap();
    assert_eq!(first.direct().await, (second.node(), "before the connection stands".into()));
    let large = vec![7; 1 << 20];
    second.control.send(first.node(), large.clone()).await.unwrap();
    assert_eq!(first.direct().await, (second.node(), large.into()));
    for number in 0..50 {
        second.control.send(first.node(), format!("{number}")).await.unwrap();
    }
    let mut numbers = Vec::new();
    while numbers.len() < 50 {
        numbers.push(String::from_utf8(first.direct().await.1.to_vec()).unwrap().parse::<u32>().unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    let oversized = second.control.send(first.node(), vec![0; (1 << 20) + 1]).await;
    assert_eq!(oversized, Err(NetError::TooLarge { size: (1 << 20) + 1, limit: 1 << 20 }));
    let oversized = second.control.publish("heads", vec![0; (48 << 10) + 1]).await;
    assert_eq!(oversized.unwrap_err(), NetError::TooLarge { size: (48 << 10) + 1, limit: 48 << 10 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_nobody_fails_with_its_id() {
    let mut peer = Peer::start(40, &[]).await;
    let nobody = node_id(&[41; 32]);
    let sent = peer.control.send(nobody, "hello").await.unwrap();
    let failed = peer
        .until("the failure", |event| match event {
            ControlEvent::SendFailed { to, id, reason } => Some((*to, *id, *reason)),
            _ => None,
        })
        .await;
    assert_eq!(failed, (nobody, sent, SendFailure::Unreachable));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_peer_is_cut_off_until_it_is_unbanned() {
    let mut judge = Peer::start(50, &[]).await;
    let mut culprit = Peer::start(51, &judge.addresses().await).await;
    judge.connected_to(culprit.node()).await;
    judge.control.ban(culprit.node()).await.unwrap();
    judge.disconnected_from(culprit.node()).await;
    culprit.disconnected_from(judge.node()).await;
    culprit.control.send(judge.node(), "let me in").await.unwrap();
    culprit.until("the refusal", |event| matches!(event, ControlEvent::SendFailed { .. }).then_some(())).await;
    assert_eq!(judge.control.peers().await.unwrap(), []);
    let sent = judge.control.send(culprit.node(), "no").await.unwrap();
    let reason = judge
        .until("our own refusal", |event| match event {
            ControlEvent::SendFailed { id, reason, .. } if *id == sent => Some(*reason),
            _ => None,
        })
        .await;
    assert_eq!(reason, SendFailure::Banned);
    judge.control.unban(culprit.node()).await.unwrap();
    judge.connected_to(culprit.node()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_peer_on_a_new_port_is_reached_by_its_id() {
    let mut peers = mesh(60, 3).await;
    let lost = peers.pop().unwrap();
    let node = lost.node();
    lost.control.shutdown().await;
    for peer in &mut peers {
        peer.disconnected_from(node).await;
    }
    let mut back = Peer::start(62, &peers[0].addresses().await).await;
    assert_eq!(back.node(), node);
    peers[0].connected_to(node).await;
    peers[1].control.send(node, "welcome back").await.unwrap();
    assert_eq!(back.direct().await, (peers[1].node(), "welcome back".into()));
    back.control.send(peers[1].node(), "thanks").await.unwrap();
    assert_eq!(peers[1].direct().await, (node, "thanks".into()));
}

/// A node on a runtime of its own, which can be killed without a goodbye.
async fn mortal(number: u8, bootstrap: Vec<String>) -> (Peer, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let peer = runtime.spawn(async move { Peer::start(number, &bootstrap).await }).await.unwrap();
    (peer, runtime)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_peer_that_comes_back_at_once_hears_and_speaks_again() {
    let mut stays = Peer::start(64, &[]).await;
    stays.control.subscribe("heads").await.unwrap();
    let bootstrap = stays.addresses().await;
    let (killed, runtime) = mortal(65, bootstrap.clone()).await;
    killed.control.subscribe("heads").await.unwrap();
    killed.control.publish("heads", "first life").await.unwrap();
    stays.gossip(&["first life".to_owned()]).await;
    runtime.shutdown_background();
    stays.control.send(killed.node(), "sent to the dead").await.unwrap();
    let mut back = Peer::start(65, &bootstrap).await;
    back.control.subscribe("heads").await.unwrap();
    assert_eq!(back.direct().await, (stays.node(), "sent to the dead".into()));
    back.control.publish("heads", "second life").await.unwrap();
    stays.gossip(&["second life".to_owned()]).await;
    stays.control.publish("heads", "welcome back").await.unwrap();
    back.gossip(&["welcome back".to_owned()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_bootstrap_node_is_dialled_again() {
    let bootstrap = Peer::start(70, &[]).await;
    let addresses = bootstrap.addresses().await;
    let node = bootstrap.node();
    let mut peer = Peer::start(71, &addresses).await;
    peer.connected_to(node).await;
    bootstrap.control.shutdown().await;
    peer.disconnected_from(node).await;
    let port = addresses[0].split('/').nth(4).unwrap().parse().unwrap();
    let listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
    let config = ControlConfig { listen, ..ControlConfig::loopback([70; 32], NETWORK) };
    // The system may take a moment to free the port.
    eventually("the port", || {
        let config = config.clone();
        async move {
            let Ok((control, events)) = Control::start(config).await else { return false };
            // Kept alive to the end of the process, as a node would be.
            std::mem::forget((control, events));
            true
        }
    })
    .await;
    peer.connected_to(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_of_another_name_is_not_joined() {
    let first = Peer::start(80, &[]).await;
    let bootstrap = first.addresses().await;
    let config = ControlConfig { bootstrap, ..ControlConfig::loopback([81; 32], "other") };
    let mut stranger = Peer::start_with(config).await;
    stranger.control.send(first.node(), "hello").await.unwrap();
    stranger.until("the failure", |event| matches!(event, ControlEvent::SendFailed { .. }).then_some(())).await;
    stranger.disconnected_from(first.node()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_are_found_through_the_dht() {
    let peers = mesh(90, 3).await;
    let key = Hash::of(b"a datanet");
    peers[1].control.provide(key).await.unwrap();
    let seeker = &peers[2].control;
    let expected = vec![peers[1].node()];
    eventually("the provider", || async { seeker.providers(key).await.unwrap() == expected }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn taken_ports_and_bad_addresses_are_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let start = |listen| Control::start(ControlConfig { listen, ..ControlConfig::loopback([100; 32], NETWORK) });
    assert_eq!(start(vec![addr]).await.unwrap_err(), NetError::PortInUse { addr });
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    assert_eq!(start(vec![addr]).await.unwrap_err(), NetError::PortInUse { addr });
    let bootstrap = vec!["/ip4/127.0.0.1/tcp/1".to_owned()];
    let nameless = ControlConfig { bootstrap, ..ControlConfig::loopback([100; 32], NETWORK) };
    let refused = Control::start(nameless).await.unwrap_err();
    assert_eq!(refused, NetError::BadAddress { address: "/ip4/127.0.0.1/tcp/1".to_owned() });
    let refused = Control::start(ControlConfig::loopback([100; 32], "Not a name")).await.unwrap_err();
    assert!(matches!(refused, NetError::Setup { .. }));
}
