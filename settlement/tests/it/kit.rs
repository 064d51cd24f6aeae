//! What several tests need: keys, chains with contracts, a transport that fails on command.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use alloy::consensus::TxEnvelope;
use alloy::eips::eip2718::Decodable2718;
use alloy::primitives::{Bytes, keccak256};
use alloy::rpc::client::RpcClient;
use alloy::rpc::json_rpc::{RequestPacket, Response, ResponsePacket, ResponsePayload, SerializedRequest};
use alloy::transports::http::{Client, Http};
use alloy::transports::{TransportError, TransportErrorKind, TransportFut};
use serde_json::value::to_raw_value;
use tempfile::TempDir;
use tower::Service;
use tributary_protocol::id::{Amount, ChainAddress};
use tributary_settlement::chain::{Chain, ChainKey, Deployment, Genesis, SignedVoucher, Voucher};
use tributary_settlement::evm::EmbeddedChain;
use tributary_settlement::rpc::{RpcServer, serve};

pub const LOOPBACK: &str = "127.0.0.1:0";

pub fn key(name: &str) -> ChainKey {
    ChainKey::from_bytes(keccak256(name).0).unwrap()
}

pub fn address(name: &str) -> ChainAddress {
    key(name).address()
}

pub fn open(units: u128) -> Amount {
    Amount(units * Amount::OPEN.0)
}

pub fn any_port() -> SocketAddr {
    LOOPBACK.parse().unwrap()
}

/// A fresh chain, served, with the contracts made by `operator`, who holds the supply.
pub struct World {
    pub folder: TempDir,
    pub embedded: EmbeddedChain,
    pub server: RpcServer,
    pub operator: Chain,
    pub deployment: Deployment,
}

impl World {
    pub async fn new(change: impl FnOnce(&mut Genesis)) -> Self {
        let folder = TempDir::new().unwrap();
        let embedded = EmbeddedChain::open(folder.path()).unwrap();
        let server = serve(embedded.clone(), any_port()).await.unwrap();
        let operator = Chain::embedded(embedded.clone(), key("operator")).unwrap();
        let mut genesis = Genesis::local(operator.address());
        change(&mut genesis);
        let deployment = operator.deploy(&genesis).await.unwrap();
        let operator = operator.at(deployment).unwrap();
        Self { folder, embedded, server, operator, deployment }
    }

    pub fn client(&self, name: &str) -> Chain {
        self.operator.with_key(key(name))
    }

    /// Puts `fees` into the distributor the way they really come: by a voucher.
    pub async fn pay_fees(&self, stream: u8, fees: Amount) {
        self.operator.deposit(address("worker"), fees).await.unwrap();
        let voucher = voucher(stream, Amount::ZERO, fees);
        self.operator.redeem(&signed(&self.operator, voucher)).await.unwrap();
    }
}

pub fn voucher(stream: u8, cumulative: Amount, fees_cumulative: Amount) -> Voucher {
    Voucher { payee: address("worker"), stream: [stream; 32], cumulative, fees_cumulative }
}

pub fn signed(payer: &Chain, voucher: Voucher) -> SignedVoucher {
    SignedVoucher { voucher, signature: payer.sign_voucher(&voucher).unwrap() }
}

pub type Ledger = BTreeMap<ChainAddress, Amount>;

/// What a faulty line does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Transactions are acknowledged and then forgotten, as by a node that drops its pool.
    LoseSends,
    /// Transactions do not get through.
    BreakSends,
    /// The next transaction gets through, and then nothing does.
    DownAfterSend,
    /// Nothing gets through.
    Down,
    /// Fees are reported as on a busy chain, wei per gas.
    ReportBaseFee(u64),
    /// Fees are reported so, and transactions are forgotten.
    ReportBaseFeeAndLoseSends(u64),
}

/// A line to a served chain that fails on command and remembers what was sent through it.
#[derive(Clone)]
pub struct FaultyLine {
    http: Http<Client>,
    fault: Arc<Mutex<Fault>>,
    sent: Arc<Mutex<Vec<TxEnvelope>>>,
}

impl FaultyLine {
    pub fn new(url: &str) -> Self {
        let http = Http::new(url.parse().unwrap());
        Self { http, fault: Arc::new(Mutex::new(Fault::None)), sent: Arc::default() }
    }

    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// Every transaction handed over so far, lost or not.
    pub fn sent(&self) -> Vec<TxEnvelope> {
        self.sent.lock().unwrap().clone()
    }

    pub async fn chain(&self, world: &World, name: &str) -> Chain {
        let chain = Chain::over_client(RpcClient::new(self.clone(), true), key(name)).await.unwrap();
        chain.at(world.deployment).unwrap()
    }

    /// The answer of this line itself, where it does not pass the request on.
    fn intercept(&self, request: &SerializedRequest) -> Option<Result<Response, TransportError>> {
        let fault = *self.fault.lock().unwrap();
        match (request.method(), fault) {
            (_, Fault::Down) => Some(Err(TransportErrorKind::backend_gone())),
            ("eth_feeHistory", Fault::ReportBaseFee(wei) | Fault::ReportBaseFeeAndLoseSends(wei)) => {
                let wei = format!("{wei:#x}");
                let history = serde_json::json!({
                    "oldestBlock": "0x0", "baseFeePerGas": [wei, wei], "gasUsedRatio": [0.5], "reward": [["0x1"]],
                });
                Some(Ok(respond(request, &history)))
            }
            ("eth_sendRawTransaction", fault) => {
                let transaction = self.remember(request);
                match fault {
                    Fault::LoseSends | Fault::ReportBaseFeeAndLoseSends(_) => {
                        Some(Ok(respond(request, &serde_json::json!(transaction.tx_hash()))))
                    }
                    Fault::BreakSends => Some(Err(TransportErrorKind::backend_gone())),
                    Fault::DownAfterSend => {
                        self.set(Fault::Down);
                        None
                    }
                    Fault::None | Fault::ReportBaseFee(_) | Fault::Down => None,
                }
            }
            _ => None,
        }
    }

    fn remember(&self, request: &SerializedRequest) -> TxEnvelope {
        let (raw,): (Bytes,) = serde_json::from_str(request.params().unwrap().get()).unwrap();
        let transaction = TxEnvelope::decode_2718_exact(&raw).unwrap();
        self.sent.lock().unwrap().push(transaction.clone());
        transaction
    }
}

fn respond(request: &SerializedRequest, result: &serde_json::Value) -> Response {
    Response { id: request.id().clone(), payload: ResponsePayload::Success(to_raw_value(result).unwrap()) }
}

impl Service<RequestPacket> for FaultyLine {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        let own = match &packet {
            RequestPacket::Single(request) => self.intercept(request),
            RequestPacket::Batch(_) => None,
        };
        match own {
            Some(answer) => Box::pin(async move { answer.map(ResponsePacket::Single) }),
            None => self.http.call(packet),
        }
    }
}
