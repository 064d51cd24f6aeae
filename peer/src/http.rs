//! The node's HTTP API on loopback: what the command line and programs use.
//!
//! Invariant: it binds to loopback only, every request carries the token that only this user can read, and every
//! body is bounded, as are the connections and how long one may say nothing.

mod asks;
mod bases;
mod cards;
mod commitments;
mod datanets;
mod doubts;
mod error;
mod evidence;
mod money;
mod openai;
mod proofs;
mod runs;
mod sources;
mod status;
mod tasks;
mod verified;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ed25519_dalek::SigningKey;
use tokio_util::sync::CancellationToken;
use tributary_protocol::id::Hash;
use tributary_settlement::rpc::bounded::{Bounds, serve_bounded};

pub use self::asks::TIMEOUT_MAX_S as ASK_TIMEOUT_MAX_S;
pub use self::error::ApiError;
pub use self::proofs::judgement_json;
use crate::cards::Cards;
use crate::evidence::Evidence;
use crate::handle::NodeHandle;
use crate::home::{ApiNotice, Home, NetworkNotice};
use crate::net::control::Control;
use crate::net::data::DataPlane;
use crate::runs::Runs;
use crate::settle::Settlement;
use crate::work::Workshop;

/// The largest request body: a recipe and a long prompt fit.
const BODY_MAX_BYTES: usize = 1024 * 1024;

/// Connections held at once: hundreds of programs of this machine, and some megabytes.
const BOUNDS: Bounds = Bounds { connections: 256, loopback: 256, stranger: 0 };

/// What the routes work with.
pub struct ApiState {
    /// The node's folder.
    pub home: Home,
    /// The network.
    pub network: NetworkNotice,
    /// The node.
    pub handle: NodeHandle,
    /// Jobs and blobs.
    pub workshop: Arc<Workshop>,
    /// The cards of datanets.
    pub cards: Arc<Cards>,
    /// What answers repeat.
    pub evidence: Arc<Evidence>,
    /// Money.
    pub settlement: Arc<Settlement>,
    /// Training runs.
    pub runs: Arc<Runs>,
    /// The control plane.
    pub control: Control,
    /// The data plane.
    pub data: DataPlane,
    /// Signs the binding of account and chain address.
    pub account_key: SigningKey,
    /// Whose treasury this node may claim for, when it began the network.
    pub chain_key: [u8; 32],
    /// When the node was started, in milliseconds since 1970.
    pub started_ms: u64,
    /// Where this node serves a chain, if it does.
    pub chain_url: Option<String>,
    /// Asks the process to end.
    pub stop: CancellationToken,
}

type Api = State<Arc<ApiState>>;
type Answer<T> = Result<Json<T>, ApiError>;

/// A running API.
pub struct ApiServer {
    notice: ApiNotice,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl ApiServer {
    /// Where it is and with which token.
    #[must_use]
    pub fn notice(&self) -> &ApiNotice {
        &self.notice
    }

    /// Ends it; open answers are cut.
    pub async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(std::time::Duration::from_secs(1), self.task).await;
        if ended.is_err() {
            tracing::debug!("an API request was cut off");
        }
    }
}

/// Serves the API on loopback.
///
/// # Errors
/// When the port is taken or the system gives no randomness.
pub async fn serve(state: Arc<ApiState>, port: u16) -> anyhow::Result<ApiServer> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!("port in use: {address}"),
        _ => anyhow::anyhow!("cannot listen on {address}: {error}"),
    })?;
    let mut token = [0; 32];
    getrandom::fill(&mut token)?;
    let token = hex::encode(token);
    let notice = ApiNotice {
        address: listener.local_addr()?,
        token: token.clone(),
        pid: std::process::id(),
        node: state.control.node_id().to_string(),
    };
    let router = routes(state)
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .layer(middleware::from_fn_with_state(Hash::of(format!("Bearer {token}").as_bytes()), authorise));
    let stop = CancellationToken::new();
    let ending = stop.clone();
    let task = tokio::spawn(async move {
        serve_bounded(listener, router, BOUNDS, ending.cancelled()).await;
    });
    Ok(ApiServer { notice, stop, task })
}

/// Compares hashes, so that the time taken tells nothing about the token.
async fn authorise(State(expected): State<Hash>, request: Request, next: Next) -> Response {
    let given = request.headers().get(AUTHORIZATION).map(|value| Hash::of(value.as_bytes()));
    if given != Some(expected) {
        let is_openai = request.uri().path().starts_with("/v1/");
        return if is_openai { openai::unauthorised() } else { ApiError::unauthorised().into_response() };
    }
    next.run(request).await
}

/// A key that nobody else has.
fn fresh_key() -> Result<Hash, ApiError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(ApiError::internal)?;
    Ok(Hash(bytes))
}

fn routes(state: Arc<ApiState>) -> Router {
    Router::new()
        .route("/api/status", get(status::status))
        .route("/api/peers", get(status::peers))
        .route("/api/traffic", get(status::traffic))
        .route("/api/net/invite", get(status::invite))
        .route("/api/net/join", post(status::join))
        .route("/api/shutdown", post(status::shutdown))
        .route("/api/datanets", get(datanets::list).post(datanets::create))
        .route("/api/datanets/{id}", get(datanets::show))
        .route("/api/datanets/{id}/card", get(cards::show).post(cards::edit))
        .route("/api/datanets/{id}/records", post(datanets::add_records))
        .route("/api/datanets/{id}/repeats", get(datanets::repeats))
        .route("/api/datanets/{id}/commitments", get(commitments::list).post(commitments::commit))
        .route("/api/datanets/{id}/claims", get(commitments::claims))
        .route("/api/datanets/{id}/doubts", get(doubts::doubts))
        .route("/api/runs", get(runs::list).post(runs::start))
        .route("/api/runs/{key}", get(runs::show))
        .route("/api/runs/{key}/metrics", get(runs::metrics))
        .route("/api/runs/{key}/stop", post(runs::stop))
        .route("/api/runs/{key}/resume", post(runs::resume))
        .route("/api/tasks", get(tasks::list))
        .route("/api/releases", get(runs::releases))
        .route("/api/releases/{adapter}/verify", post(verified::verify))
        .route("/api/ask", post(asks::ask))
        .route("/api/asks", get(asks::list))
        .route("/api/asks/{key}", get(asks::show))
        .route("/api/asks/{key}/evidence", get(evidence::show))
        .route("/api/asks/{key}/records", post(evidence::records))
        .route("/api/asks/{key}/verify", post(proofs::verify))
        .route("/api/proofs", get(proofs::list))
        .route("/api/proofs/judge", post(proofs::judge))
        .route("/api/proofs/{id}", get(proofs::show))
        .route("/api/base/generate", post(asks::generate))
        .route("/api/bases", get(bases::list).post(bases::import))
        .route("/api/bases/{id}", get(bases::show))
        .route("/api/bases/{id}/remove", post(bases::remove))
        .route("/api/models/export", post(bases::export))
        .route("/api/receipts", get(money::receipts))
        .route("/api/receipts/{id}", get(money::receipt))
        .route("/api/epochs/close", post(money::close_epoch))
        .route("/api/epochs", get(money::epochs))
        .route("/api/wallet", get(money::wallet))
        .route("/api/wallet/redeem", post(money::redeem))
        .route("/api/wallet/claim", post(money::claim))
        .route("/api/wallet/send", post(money::send))
        .route("/api/chain/totals", get(money::totals))
        .merge(openai::routes())
        .with_state(state)
}
