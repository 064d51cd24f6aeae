//! The routes of an answer's evidence: what it repeats word for word, how its contributors' shares are known, and which of
//! their records helped.

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tributary_protocol::id::{AccountId, Hash};
use tributary_protocol::message::{BASE_ALONE, Contributor, clusters_of};
use tributary_protocol::node::Node;
use tributary_protocol::receipt::Work;
use tributary_protocol::transcript::Transcript;

use super::{Answer, Api, ApiError, fresh_key};
use crate::evidence::Found;
use crate::runs::{OpenRun, done_adapter};
use crate::work::influence::Helped;

/// What an answer repeats, and who of its model's contributors was left out how.
#[derive(Serialize)]
pub(super) struct Evidence {
    #[serde(flatten)]
    found: Found,
    contributors: Vec<LeftOut>,
}

/// How one knows what a contributor taught.
#[derive(Serialize)]
struct LeftOut {
    account: AccountId,
    /// Whether it was estimated from gradients, and nothing trained without this contributor.
    estimated: bool,
    /// Whether nothing is left without this contributor but the base.
    base_alone: bool,
    /// Who was left out with it by the same training, since they teach the same or have few records.
    together_with: Vec<AccountId>,
}

fn left_out(contributors: &[Contributor]) -> Vec<LeftOut> {
    let clusters = clusters_of(contributors);
    let account = |number: u32| Some(contributors.get(usize::try_from(number).ok()?)?.account);
    let one = |(number, one): (u32, &Contributor)| {
        let members = clusters.iter().filter(|members| members.contains(&number)).flatten();
        let others = members.filter(|member| **member != number).filter_map(|member| account(*member)).collect();
        let base_alone = one.leave_out == BASE_ALONE;
        LeftOut { account: one.account, estimated: one.estimated, base_alone, together_with: others }
    };
    (0..).zip(contributors).map(one).collect()
}

/// The text of an answer and the shards of the datanet that its model was made of.
pub(super) async fn show(State(api): Api, Path(key): Path<Hash>) -> Answer<Evidence> {
    let look = move |node: &Node| {
        let view = node.ask_view(&key)?;
        let receipt = view.receipt.and_then(|id| node.receipt_of(&id));
        let adapter = match receipt.map(|signed| &signed.receipt.work) {
            Some(Work::Inference { adapter, .. }) => Some(*adapter),
            _ => None,
        };
        let release = adapter.and_then(|adapter| node.release_of(&adapter)).map(|release| &release.body);
        let datanet = release.map(|release| release.datanet);
        let entries = datanet.and_then(|id| node.datanet(&id)).and_then(|datanet| datanet.version(&datanet.head()));
        Some((view.text, entries, left_out(release.map_or(&[], |release| release.contributors.as_slice()))))
    };
    let found = api.handle.view(look).await?;
    let (text, entries, contributors) =
        found.ok_or_else(|| ApiError::not_found(format!("question {key} is not known here"), "ask it first"))?;
    let (Some(text), Some(entries)) = (text, entries) else {
        return Err(ApiError::not_found(
            "this question has no answer here, or its model's datanet is not known",
            "tributary answer show says how far it is",
        ));
    };
    let found = api.evidence.quotations(&api.workshop.store, entries, text).await;
    found.map(|found| Json(Evidence { found, contributors })).map_err(ApiError::internal)
}

/// Records that are shown at the most.
const RECORDS_SHOWN: usize = 50;

/// How records are told.
#[derive(Deserialize)]
pub(super) struct Told {
    /// Whether by going through the model's training backwards.
    #[serde(default)]
    exact: bool,
}

/// The recipe of a training that this node ordered and that came to this adapter.
async fn recipe_of(api: &super::ApiState, adapter: Hash) -> Result<String, ApiError> {
    let runs = api.runs.all()?;
    let look = move |node: &Node| {
        let made_it = |run: &&OpenRun| run.task(node, &[]).and_then(|task| done_adapter(&task)) == Some(adapter);
        runs.iter().find(made_it).map(|run| run.spec.recipe.clone())
    };
    api.handle.view(look).await?.ok_or_else(|| {
        let hint = "put the question again on that node, or leave out --exact";
        ApiError::not_found("only the node that ordered a model's training can go through it again", hint)
    })
}

/// The records that helped most to an answer of this node, each with its part of its contributor's share.
pub(super) async fn records(State(api): Api, Path(key): Path<Hash>, Query(told): Query<Told>) -> Answer<Value> {
    let look = move |node: &Node| {
        let audit = node.audit_of(&key)?;
        let release = node.release_of(&audit.request.body.adapter)?.body.clone();
        Some((audit.clone(), release))
    };
    let (audit, release) = api.handle.view(look).await?.ok_or_else(|| {
        let hint = "only answers that this node asked for are kept, the newest of them";
        ApiError::not_found(format!("what looking behind the answer to {key} needs is not here"), hint)
    })?;
    let Some(_turn) = api.workshop.turn_to_look() else {
        return Err(ApiError::usage("another look at records is under way", "try again when it has ended"));
    };
    let recipe = match told.exact {
        true => Some(recipe_of(&api, release.adapter).await?),
        false => None,
    };
    let transcript = Transcript::from_bytes(&audit.transcript).map_err(ApiError::internal)?;
    let tokens = (transcript.prompt_tokens, transcript.output_tokens);
    let shares = &audit.receipt.receipt.shares;
    let behind = api.workshop.behind(fresh_key()?, (&release, recipe), tokens, shares).await.map_err(|error| {
        let hint = "base, adapter and records come from the peers that have them: tributary net ls says who is there";
        ApiError::unreachable(format!("the records could not be looked at: {error}"), hint)
    })?;
    let weight: u64 = behind.helped.iter().map(|one| u64::from(one.weight)).sum();
    let shown = behind.helped.iter().take(RECORDS_SHOWN);
    let record = |one: &Helped| {
        json!({
            "record": one.record.id,
            "contributor": one.account,
            "weight": one.weight,
            "prompt": one.record.prompt,
            "completion": one.record.completion,
        })
    };
    Ok(Json(json!({
        "records": shown.map(record).collect::<Vec<_>>(),
        "helped": behind.helped.len(),
        "helped_weight": weight,
        "looked_at": behind.looked_at,
        "admitted": behind.admitted,
        "exact": told.exact,
        "magnified_permille": behind.magnified_permille,
    })))
}
