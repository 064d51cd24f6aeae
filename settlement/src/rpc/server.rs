//! Serving the chain over HTTP, on loopback unless the operator says otherwise.
//!
//! Invariant: at most `MAX_CONNECTIONS` connections are held and `MAX_CONCURRENT_REQUESTS` requests worked on at once,
//! of each caller a part; a request above a limit is refused at once and costs no chain work. A web page cannot use the
//! chain: its browser would send a foreign `Host` (rebinding) or a content type that needs a permission nobody gives.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::bounded::{Bounds, Caller, serve_bounded};
use super::{
    BODY_TIMEOUT_S, MAX_BODY_BYTES, MAX_CONCURRENT_REQUESTS, MAX_CONNECTIONS, MAX_LOOPBACK_CONNECTIONS,
    MAX_LOOPBACK_REQUESTS, MAX_STRANGER_CONNECTIONS, MAX_STRANGER_REQUESTS, RpcError, STOP_TIMEOUT_S, answer_body,
    reply,
};
use crate::evm::EmbeddedChain;

/// Why the chain is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is open to other machines and nobody asked for that.
    #[error("{0} can be reached from other machines: the chain is served on loopback unless opened on purpose")]
    NotLoopback(SocketAddr),
    /// The port is in use or not ours to take.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// A chain being served; dropping it stops the server.
#[derive(Debug)]
pub struct RpcServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl RpcServer {
    /// Where it listens, with the port the system chose when it was asked for port 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What `Chain::connect` takes.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops taking requests and waits for those begun, but not for a caller who leaves one half sent.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        match tokio::time::timeout(Duration::from_secs(STOP_TIMEOUT_S), &mut self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the chain's server ended badly"),
            Err(_) => self.task.abort(),
        }
    }
}

impl Drop for RpcServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.task.abort();
    }
}

/// Serves `chain` on a loopback address.
pub async fn serve(chain: EmbeddedChain, address: SocketAddr) -> Result<RpcServer, ServeError> {
    if !address.ip().is_loopback() {
        return Err(ServeError::NotLoopback(address));
    }
    listen(chain, address).await
}

/// Serves `chain` on any address. Whoever reaches it may send transactions that cost nothing: for trusted networks.
pub async fn serve_open(chain: EmbeddedChain, address: SocketAddr) -> Result<RpcServer, ServeError> {
    listen(chain, address).await
}

async fn listen(chain: EmbeddedChain, address: SocketAddr) -> Result<RpcServer, ServeError> {
    let bind = |source| ServeError::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    let service =
        Service { chain, working: Arc::new(Mutex::new(Vec::new())), loopback_only: address.ip().is_loopback() };
    let router = Router::new().route("/", post(handle)).with_state(service);
    let bounds =
        Bounds { connections: MAX_CONNECTIONS, loopback: MAX_LOOPBACK_CONNECTIONS, stranger: MAX_STRANGER_CONNECTIONS };
    let (stop, mut stopped) = watch::channel(false);
    let task = tokio::spawn(async move {
        let until_stopped = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        serve_bounded(listener, router, bounds, until_stopped).await;
    });
    Ok(RpcServer { address, stop, task })
}

#[derive(Clone)]
struct Service {
    chain: EmbeddedChain,
    /// Whose requests are worked on.
    working: Arc<Mutex<Vec<Caller>>>,
    loopback_only: bool,
}

/// One request's place among those worked on.
struct Permit {
    caller: Caller,
    working: Arc<Mutex<Vec<Caller>>>,
}

impl Service {
    fn permit(&self, caller: Caller) -> Option<Permit> {
        let bound = match caller {
            Caller::Loopback => MAX_LOOPBACK_REQUESTS,
            Caller::Stranger(_) => MAX_STRANGER_REQUESTS,
        };
        let mut working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        let own = working.iter().filter(|other| **other == caller).count();
        if own >= bound || working.len() >= MAX_CONCURRENT_REQUESTS {
            return None;
        }
        working.push(caller);
        Some(Permit { caller, working: Arc::clone(&self.working) })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = working.iter().position(|other| *other == self.caller) {
            working.swap_remove(place);
        }
    }
}

async fn handle(State(service): State<Service>, Extension(caller): Extension<Caller>, request: Request) -> Response {
    if !is_json(request.headers()) {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type must be application/json");
    }
    if service.loopback_only && !names_loopback(request.headers()) {
        return refuse(StatusCode::FORBIDDEN, "the host must be this machine");
    }
    let reading = axum::body::to_bytes(request.into_body(), MAX_BODY_BYTES);
    let body = match tokio::time::timeout(Duration::from_secs(BODY_TIMEOUT_S), reading).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is above 512 KiB or broke off"),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
    };
    // Only whole requests are worked on, so half a request takes nobody's place.
    match service.permit(caller) {
        Some(permit) => answer(service.chain, body, permit).await,
        None => refuse(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once: try again"),
    }
}

async fn answer(chain: EmbeddedChain, body: Bytes, permit: Permit) -> Response {
    let work = tokio::task::spawn_blocking(move || {
        let answer = answer_body(&chain, &body);
        drop(permit);
        answer
    });
    match work.await {
        Ok(Some(answer)) => axum::Json(answer).into_response(),
        Ok(None) => StatusCode::NO_CONTENT.into_response(),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be worked on"),
    }
}

fn refuse(status: StatusCode, reason: &'static str) -> Response {
    let body = reply(&serde_json::Value::Null, Err(RpcError::Request(reason)));
    (status, axum::Json(body)).into_response()
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    content_type.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn names_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
