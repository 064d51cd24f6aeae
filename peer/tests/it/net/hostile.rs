//! Peers that speak the protocols wrongly: a node refuses what they send and serves the honest ones on.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, gossipsub, noise, request_response, tcp, yamux};
use tokio::io::AsyncWriteExt as _;
use tributary_peer::net::control::ControlEvent;

use super::{DEADLINE, LOOK, NETWORK, Peer};

/// Writes what it is given, frame or not.
#[derive(Clone, Default)]
struct RawCodec;

impl request_response::Codec for RawCodec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        _: &mut T,
    ) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        let mut answer = [0];
        io.read_exact(&mut answer).await?;
        Ok(answer.to_vec())
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Vec<u8>,
    ) -> io::Result<()> {
        io.write_all(&request).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        _: &mut T,
        _: Vec<u8>,
    ) -> io::Result<()> {
        Ok(())
    }
}

#[derive(NetworkBehaviour)]
struct Hostile {
    direct: request_response::Behaviour<RawCodec>,
    gossip: gossipsub::Behaviour,
}

fn hostile() -> Swarm<Hostile> {
    let name = StreamProtocol::try_from_owned(format!("/tributary/{NETWORK}/direct/1")).unwrap();
    let protocols = [(name, request_response::ProtocolSupport::Full)];
    let gossip = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix(format!("/tributary/{NETWORK}/gossip"))
        .validation_mode(gossipsub::ValidationMode::None)
        .message_id_fn(|message| gossipsub::MessageId::new(blake3::hash(&message.data).as_bytes()))
        .max_transmit_size(1 << 20)
        .build()
        .unwrap();
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_quic()
        .with_behaviour(|_| Hostile {
            direct: request_response::Behaviour::new(protocols, request_response::Config::default()),
            gossip: gossipsub::Behaviour::new(gossipsub::MessageAuthenticity::Anonymous, gossip).unwrap(),
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(600)))
        .build()
}

async fn connect(swarm: &mut Swarm<Hostile>, address: &str) -> PeerId {
    swarm.dial(address.parse::<Multiaddr>().unwrap()).unwrap();
    loop {
        if let SwarmEvent::ConnectionEstablished { peer_id, .. } = swarm.select_next_some().await {
            return peer_id;
        }
    }
}

/// Sends raw bytes as a direct message; whether they were acknowledged.
async fn offer(swarm: &mut Swarm<Hostile>, victim: PeerId, bytes: Vec<u8>) -> bool {
    let request = swarm.behaviour_mut().direct.send_request(&victim, bytes);
    let answering = async {
        loop {
            let SwarmEvent::Behaviour(HostileEvent::Direct(event)) = swarm.select_next_some().await else { continue };
            match event {
                request_response::Event::OutboundFailure { request_id, .. } if request_id == request => return false,
                request_response::Event::Message {
                    message: request_response::Message::Response { request_id, .. },
                    ..
                } if request_id == request => return true,
                _ => {}
            }
        }
    };
    tokio::time::timeout(DEADLINE, answering).await.expect("an answer or a failure in time")
}

async fn still_serves(victim: &mut Peer, number: u8) {
    let honest = Peer::start(number, &victim.addresses().await).await;
    honest.control.send(victim.node(), "are you there").await.unwrap();
    assert_eq!(victim.direct().await, (honest.node(), "are you there".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_direct_messages_are_refused_and_harm_nobody() {
    let mut victim = Peer::start(110, &[]).await;
    let address = victim.addresses().await.remove(0);
    let mut swarm = hostile();
    let peer = connect(&mut swarm, &address).await;
    let oversized = [(1_u32 << 20) + 1, u32::MAX].map(|length| length.to_be_bytes().to_vec());
    for bytes in oversized.into_iter().chain([b"\0\0\0\x09short".to_vec(), b"\0".to_vec(), vec![0xa5; 5000]]) {
        assert!(!offer(&mut swarm, peer, bytes).await);
    }
    assert!(offer(&mut swarm, peer, b"\0\0\0\x04good".to_vec()).await, "well-formed bytes are taken");
    assert_eq!(victim.direct().await.1, "good");
    still_serves(&mut victim, 111).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_gossip_is_not_delivered() {
    let mut victim = Peer::start(120, &[]).await;
    victim.control.subscribe("heads").await.unwrap();
    let address = victim.addresses().await.remove(0);
    let mut swarm = hostile();
    swarm.behaviour_mut().gossip.subscribe(&gossipsub::IdentTopic::new("heads")).unwrap();
    connect(&mut swarm, &address).await;
    let flooding = async {
        let mut number = 0_u32;
        loop {
            // Each event gives another chance.
            swarm.select_next_some().await;
            for size in [(48 << 10) + 1, 100 << 10] {
                number += 1;
                let mut bytes = vec![0xee; size];
                bytes[..4].copy_from_slice(&number.to_be_bytes());
                // Refused until the victim's subscription is known, and after the victim has hung up.
                let _ = swarm.behaviour_mut().gossip.publish(gossipsub::IdentTopic::new("heads"), bytes);
            }
        }
    };
    let honest = Peer::start(122, &[address]).await;
    honest.control.subscribe("heads").await.unwrap();
    let speaking = async {
        for number in 0.. {
            honest.control.publish("heads", format!("honest {number}")).await.unwrap();
            tokio::time::sleep(LOOK).await;
        }
    };
    let mut sizes = Vec::new();
    let heard = victim.until("ten honest messages", |event| {
        if let ControlEvent::Message { bytes, gossip: Some(_), .. } = event {
            sizes.push(bytes.len());
        }
        (sizes.len() >= 10).then_some(())
    });
    tokio::select! {
        () = flooding => {}
        () = speaking => {}
        () = heard => {}
    }
    assert!(sizes.iter().all(|size| *size < 100), "{sizes:?}");
    still_serves(&mut victim, 121).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_sockets_harms_nobody() {
    let mut victim = Peer::start(130, &[]).await;
    for address in victim.addresses().await {
        let port: u16 = address.split('/').nth(4).unwrap().parse().unwrap();
        let target = SocketAddr::from(([127, 0, 0, 1], port));
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for size in [0, 1, 100, 1200, 1472] {
            socket.send_to(&vec![0xc3; size], target).await.unwrap();
        }
        if address.contains("/tcp/") {
            let mut stream = tokio::net::TcpStream::connect(target).await.unwrap();
            // The node may hang up while this is written.
            let _ = stream.write_all(&vec![0xc3; 100_000]).await;
        }
    }
    still_serves(&mut victim, 131).await;
}
