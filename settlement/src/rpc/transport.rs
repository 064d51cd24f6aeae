//! The embedded chain as an alloy transport: the same methods, with no socket between.
//!
//! Invariant: the chain's file is touched on blocking threads only, since a write waits for the disk.

use std::task::{Context, Poll};

use alloy::rpc::json_rpc::{ErrorPayload, RequestPacket, Response, ResponsePacket, ResponsePayload, SerializedRequest};
use alloy::transports::{TransportError, TransportErrorKind, TransportFut};
use serde_json::Value;
use serde_json::value::to_raw_value;
use tower::Service;

use super::{MAX_BODY_GAS, RpcError, methods};
use crate::evm::{EmbeddedChain, GasBudget};

/// The service alloy's client calls.
#[derive(Debug, Clone)]
pub(crate) struct EmbeddedTransport(EmbeddedChain);

impl EmbeddedTransport {
    pub(crate) fn new(chain: EmbeddedChain) -> Self {
        Self(chain)
    }

    fn answer(&self, request: &SerializedRequest) -> Result<Response, TransportError> {
        let parameters = match request.params() {
            Some(raw) => serde_json::from_str::<Vec<Value>>(raw.get()).unwrap_or_default(),
            None => Vec::new(),
        };
        let mut gas = GasBudget::new(MAX_BODY_GAS);
        let payload = match methods::dispatch(&self.0, request.method(), &parameters, &mut gas) {
            Ok(result) => ResponsePayload::Success(to_raw_value(&result).map_err(TransportError::ser_err)?),
            Err(error) => ResponsePayload::Failure(failure(&error)?),
        };
        Ok(Response { id: request.id().clone(), payload })
    }

    fn answer_all(&self, packet: RequestPacket) -> Result<ResponsePacket, TransportError> {
        match packet {
            RequestPacket::Single(request) => self.answer(&request).map(ResponsePacket::Single),
            RequestPacket::Batch(requests) => {
                let responses = requests.iter().map(|request| self.answer(request)).collect::<Result<Vec<_>, _>>()?;
                Ok(ResponsePacket::Batch(responses))
            }
        }
    }
}

fn failure(error: &RpcError) -> Result<ErrorPayload, TransportError> {
    let data = error.data().map(to_raw_value).transpose().map_err(TransportError::ser_err)?;
    Ok(ErrorPayload { code: error.code(), message: error.to_string().into(), data })
}

impl Service<RequestPacket> for EmbeddedTransport {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        let transport = self.clone();
        Box::pin(async move {
            let work = tokio::task::spawn_blocking(move || transport.answer_all(packet));
            work.await.map_err(TransportErrorKind::custom)?
        })
    }
}
