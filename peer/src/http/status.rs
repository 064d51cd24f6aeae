//! Routes about the node itself and its network.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use tributary_protocol::id::NodeId;
use tributary_protocol::node::{Node, PeerView};

use super::{Answer, Api, ApiError, ApiState};
use crate::home::Ticket;
use crate::net::NetError;
use crate::runtime::now_ms;

pub(super) async fn status(State(api): Api) -> Answer<Value> {
    let mut answer = api.handle.view(about_node).await?;
    let (chain, peers) = (chain_status(&api).await, api.control.peers().await.map_or(0, |peers| peers.len()));
    if let Some(fields) = answer.as_object_mut() {
        fields.insert("network".into(), json!(api.network.name));
        fields.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
        fields.insert("uptime_ms".into(), json!(now_ms().saturating_sub(api.started_ms)));
        fields.insert("peers".into(), json!(peers));
        fields.insert("chain".into(), chain);
        fields.insert("engine".into(), json!({"pid": api.workshop.engine.pid()}));
    }
    Ok(Json(answer))
}

fn about_node(node: &Node) -> Value {
    let record = node.record_view();
    let jobs: Vec<Value> = node
        .jobs()
        .into_iter()
        .map(|(task, _, progress, finished)| {
            json!({
                "task": task,
                "step": progress.as_ref().map_or(0, |beat| beat.step),
                "steps": progress.as_ref().map_or(0, |beat| beat.steps),
                "tokens_per_s": progress.as_ref().map_or(0, |beat| beat.tokens_per_s),
                "finished": finished,
            })
        })
        .collect();
    json!({
        "node": node.id(),
        "account": node.account(),
        "chain_address": node.chain_address(),
        "classes": record.classes,
        "roles": record.roles,
        "datanets": node.datanets().count(),
        "releases": node.releases().count(),
        "receipts": node.receipts().count(),
        "serving": record.serving,
        "idle_reason": idle_reason(node, jobs.is_empty()),
        "jobs": jobs,
        "control": record.control,
        "data": record.data,
    })
}

/// Why a worker has nothing to do, in the order in which the user can change it.
fn idle_reason(node: &Node, no_jobs: bool) -> Option<&'static str> {
    if !no_jobs {
        return None;
    }
    let record = node.record_view();
    if !record.roles.worker {
        return Some("this node does not work for others: start it with the worker role");
    }
    if node.peers().count() == 0 {
        return Some(
            "no peer is connected: known ones are tried again by themselves, others are reached with up --join TICKET",
        );
    }
    if record.serving.is_empty() {
        return Some("no task was won here and no adapter is served yet: tasks go to bids that their budgets allow");
    }
    Some("ready: no task is won now")
}

async fn chain_status(api: &ApiState) -> Value {
    let Some(notice) = api.settlement.notice() else { return json!({"state": "none"}) };
    let up = match api.settlement.chain().await {
        Ok(chain) => chain.head().await.is_ok(),
        Err(_) => false,
    };
    json!({
        "state": if up { "up" } else { "down" },
        "url": notice.url,
        "chain_id": notice.deployment.chain_id,
        "deployment": notice.deployment,
        "served": api.chain_url,
    })
}

pub(super) async fn peers(State(api): Api) -> Answer<Vec<Value>> {
    let now = now_ms();
    let connected = api.control.peers().await.unwrap_or_default();
    let peers = api
        .handle
        .view(move |node| {
            let show = |(id, peer): (&NodeId, &PeerView)| {
                json!({
                    "node": id,
                    "account": peer.record.certificate.account,
                    "roles": peer.record.roles,
                    "heard_ms_ago": now.saturating_sub(peer.heard_ms),
                    "connected": connected.contains(id),
                    "serving": peer.record.serving,
                    "answer_price": peer.record.answer_price,
                    "batches": peer.record.batches,
                })
            };
            node.peers().map(show).collect()
        })
        .await?;
    Ok(Json(peers))
}

pub(super) async fn traffic(State(api): Api) -> Answer<Value> {
    let (sent, received, blobs) = api.workshop.traffic.totals();
    Ok(Json(json!({"sent_bytes": sent, "received_bytes": received, "blobs_received_bytes": blobs})))
}

pub(super) async fn invite(State(api): Api) -> Answer<Value> {
    let bootstrap = api.control.listen_addrs().await.map_err(ApiError::internal)?;
    let ticket = Ticket { network: api.network.clone(), bootstrap };
    Ok(Json(json!({"ticket": ticket.to_text()})))
}

#[derive(Deserialize)]
pub(super) struct Join {
    ticket: String,
}

/// Meets the peers of a ticket of this node's own network.
pub(super) async fn join(State(api): Api, Json(join): Json<Join>) -> Answer<Value> {
    let hint = "get a ticket with tributary net invite on a node of the network";
    let ticket = Ticket::from_text(&join.ticket).map_err(|reason| ApiError::usage(reason, hint))?;
    if (&ticket.network.name, ticket.network.treasury) != (&api.network.name, api.network.treasury) {
        let reason = match ticket.network.name == api.network.name {
            true => format!(
                "the ticket is of another network than this node's, though both are called {}",
                api.network.name
            ),
            false => format!("the ticket is of network {}, this node is of {}", ticket.network.name, api.network.name),
        };
        return Err(ApiError::usage(
            reason,
            "join another network from a new folder: tributary up --data-dir DIR --join TICKET",
        ));
    }
    let met = api.control.meet(&ticket.bootstrap).await.map_err(|error| ApiError::usage(error, hint))?;
    let peers: Vec<_> = met.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(node, _)| *node).collect();
    if peers.is_empty() {
        return Err(nobody(met));
    }
    api.home.save("bootstrap.json", &ticket.bootstrap).map_err(ApiError::internal)?;
    Ok(Json(json!({"peers": peers.len(), "nodes": peers})))
}

/// Why no peer of a ticket was met.
fn nobody(met: Vec<(NodeId, Result<(), NetError>)>) -> ApiError {
    let failures = met.into_iter().filter_map(|(_, outcome)| Some(outcome.err()?.to_string())).collect::<Vec<_>>();
    if failures.is_empty() {
        return ApiError::usage("the ticket names no peer but this node", "use it on another machine");
    }
    let hint = "see that a node of the ticket runs and that this machine reaches its address, and try again";
    ApiError::unreachable(format!("no peer of the ticket was met: {}", failures.join("; ")), hint)
}

pub(super) async fn shutdown(State(api): Api) -> Answer<Value> {
    api.stop.cancel();
    Ok(Json(json!({})))
}
