//! Serving the chain over HTTP, on loopback unless the operator says otherwise.
//!
//! Invariant: at most `MAX_CONNECTIONS` connections are held and `MAX_CONCURRENT_REQUESTS` requests worked on at
//! once; a request above a limit is refused at once and costs no chain work. A web page cannot use the chain: its
//! browser would send a foreign `Host` (rebinding) or a content type that needs a permission nobody gives.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use super::{
    BODY_TIMEOUT_S, MAX_BODY_BYTES, MAX_CONCURRENT_REQUESTS, MAX_CONNECTIONS, RpcError, STOP_TIMEOUT_S, answer_body,
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
    let service = Service {
        chain,
        permits: Arc::new(Semaphore::new(MAX_CONCURRENT_REQUESTS)),
        loopback_only: address.ip().is_loopback(),
    };
    let router = Router::new().route("/", post(handle)).with_state(service);
    let listener = BoundedListener { listener, permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)) };
    let (stop, mut stopped) = watch::channel(false);
    let task = tokio::spawn(async move {
        let until_stopped = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(until_stopped).await {
            tracing::error!(%error, "the chain is no longer served");
        }
    });
    Ok(RpcServer { address, stop, task })
}

#[derive(Clone)]
struct Service {
    chain: EmbeddedChain,
    permits: Arc<Semaphore>,
    loopback_only: bool,
}

async fn handle(State(service): State<Service>, request: Request) -> Response {
    if !is_json(request.headers()) {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type must be application/json");
    }
    if service.loopback_only && !names_loopback(request.headers()) {
        return refuse(StatusCode::FORBIDDEN, "the host must be this machine");
    }
    let Ok(permit) = service.permits.clone().try_acquire_owned() else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once: try again");
    };
    let reading = axum::body::to_bytes(request.into_body(), MAX_BODY_BYTES);
    let body = match tokio::time::timeout(Duration::from_secs(BODY_TIMEOUT_S), reading).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is above 512 KiB or broke off"),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
    };
    answer(service.chain, body, permit).await
}

async fn answer(chain: EmbeddedChain, body: Bytes, permit: OwnedSemaphorePermit) -> Response {
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

/// Takes a connection only when one of the bounded number is free.
struct BoundedListener {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

impl Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let permit = self.permits.clone().acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (BoundedStream { stream, _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

struct BoundedStream {
    stream: TcpStream,
    _permit: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
