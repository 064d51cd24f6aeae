//! Routes about base models, and exports of models.

use std::path::PathBuf;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};
use tributary_protocol::id::{Hash, NodeId};

use super::{Answer, Api, ApiError, ApiState, fresh_key};
use crate::bases::{BUILTIN, BaseRecord, Origin};
use crate::bundle::ADAPTER_MAX_BYTES;
use crate::engine::{Ask, Done, ExportAsk};
use crate::names;
use crate::work::{BaseFault, JobError};

const PULL_HINT: &str = "give a folder with config.json, tokenizer.json and safetensors files, or one GGUF file";

const TEMPLATE_HINT: &str =
    "templates stand in tokenizer_config.json, in chat_template.jinja, or in the GGUF's metadata";

impl From<BaseFault> for ApiError {
    fn from(fault: BaseFault) -> Self {
        match &fault {
            BaseFault::Refused(reason) if reason.contains("chat template") => Self::usage(fault, TEMPLATE_HINT),
            BaseFault::Refused(_) => Self::usage(fault, PULL_HINT),
            BaseFault::OverLimit { bytes, .. } => {
                let gigabytes = bytes.div_ceil(1_000_000_000);
                Self::usage(fault, &format!("start the node with tributary up --base-limit {gigabytes}GB"))
            }
            BaseFault::NoRoom { .. } => Self::usage(
                fault,
                "remove a base with tributary model rm, or start the node with a larger tributary up --disk-limit",
            ),
            BaseFault::NameTaken { .. } => {
                Self::usage(fault, "choose another --name, or remove that one with tributary model rm")
            }
            BaseFault::InTheWay(_) => Self::usage(fault, "remove one with tributary model rm"),
            BaseFault::EngineEnded(_) | BaseFault::Machine(_) => Self::internal(fault),
        }
    }
}

/// Work that goes on when the caller goes away: what was begun on the disk is ended.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(work).await.map_err(ApiError::internal)?
}

pub(super) async fn list(State(api): Api) -> Answer<Vec<Value>> {
    let shown = |record: BaseRecord| {
        let is_pinned = record.is_pinned();
        let mut shown = json!(record);
        shown["pinned"] = json!(is_pinned);
        shown
    };
    Ok(Json(api.workshop.bases.all()?.into_iter().map(shown).collect()))
}

pub(super) async fn show(State(api): Api, Path(id): Path<Hash>) -> Answer<Value> {
    let record = api.workshop.bases.record(&id)?.ok_or_else(|| unknown(&id))?;
    let class = api.workshop.bases.class(&id)?;
    let used = releases_on(&api, id).await?;
    let mut shown = json!(record);
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("class".into(), json!(class));
        fields.insert("adapters".into(), json!(used));
    }
    Ok(Json(shown))
}

fn unknown(id: &Hash) -> ApiError {
    ApiError::not_found(format!("base {} is not here", id.short()), "tributary model ls shows the bases of this node")
}

/// Released adapters on a base.
async fn releases_on(api: &ApiState, base: Hash) -> Result<Vec<Hash>, ApiError> {
    let found = api.handle.view(move |node| {
        let on_it = node.releases().filter(|release| release.body.base == base);
        on_it.map(|release| release.body.adapter).collect()
    });
    Ok(found.await?)
}

#[derive(Deserialize)]
pub(super) struct Import {
    path: PathBuf,
    #[serde(flatten)]
    origin: Origin,
}

pub(super) async fn import(State(api): Api, Json(import): Json<Import>) -> Answer<BaseRecord> {
    if let Some(fault) = names::fault(&import.origin.name) {
        return Err(ApiError::usage(fault, "choose another --name"));
    }
    if !import.origin.is_well_formed() {
        return Err(ApiError::usage("the base's origin is no short line of text", "leave source and licence out"));
    }
    let Import { path, origin } = import;
    to_its_end(async move { Ok(Json(api.workshop.import_base(&path, origin).await?)) }).await
}

pub(super) async fn remove(State(api): Api, Path(id): Path<Hash>) -> Answer<BaseRecord> {
    let record = api.workshop.bases.record(&id)?.ok_or_else(|| unknown(&id))?;
    if record.origin.source == BUILTIN {
        return Err(ApiError::usage("the built-in base is part of the program", "it takes only a few megabytes"));
    }
    let serving = api.handle.view(|node| node.record_view().serving.clone()).await?;
    if let Some(adapter) = releases_on(&api, id).await?.iter().find(|adapter| serving.contains(adapter)) {
        let reason = format!("this node answers with model {}, which needs the base", adapter.short());
        return Err(ApiError::usage(reason, "start the node without the worker role first"));
    }
    to_its_end(async move { Ok(Json(api.workshop.remove_base(id).await?)) }).await
}

/// The base that a user means: the built-in one, one of this node by its id, or a folder or file, which is taken in.
pub(super) async fn resolve(api: &ApiState, given: &str) -> Result<Hash, ApiError> {
    if given == BUILTIN {
        return Ok(api.workshop.builtin_base().await?);
    }
    if let Ok(id) = given.parse::<Hash>() {
        return api.workshop.bases.record(&id)?.map(|record| record.id).ok_or_else(|| unknown(&id));
    }
    let path = PathBuf::from(given);
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let origin = Origin { name, source: "folder".into(), ..Origin::default() };
    if let Some(fault) = names::fault(&origin.name) {
        return Err(ApiError::usage(fault, "give it another name: tributary model pull FOLDER --name NAME"));
    }
    Ok(api.workshop.import_base(&path, origin).await?.id)
}

/// Whether [`resolve`] may find one, without taking anything in.
pub(super) fn check(api: &ApiState, given: &str) -> Result<(), ApiError> {
    match given.parse::<Hash>() {
        _ if given == BUILTIN => Ok(()),
        Ok(id) => api.workshop.bases.record(&id)?.map(|_| ()).ok_or_else(|| unknown(&id)),
        Err(_) if std::path::Path::new(given).exists() => Ok(()),
        Err(_) => Err(ApiError::usage(format!("there is no {given}"), PULL_HINT)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Export {
    model: Hash,
    format: String,
    out: String,
}

/// What is exported: a base alone, or an adapter on its base.
struct Exported {
    base: Hash,
    adapter: Option<(Hash, NodeId)>,
}

async fn find(api: &ApiState, model: Hash) -> Result<Exported, ApiError> {
    if api.workshop.bases.record(&model)?.is_some() {
        return Ok(Exported { base: model, adapter: None });
    }
    let release = api.handle.view(move |node| node.release_of(&model).map(|release| release.body.clone())).await?;
    let release = release.ok_or_else(|| {
        ApiError::not_found(format!("no model {} is known here", model.short()), "tributary model ls shows them")
    })?;
    Ok(Exported { base: release.base, adapter: Some((release.adapter, release.node)) })
}

pub(super) async fn export(State(api): Api, Json(export): Json<Export>) -> Answer<Value> {
    to_its_end(async move {
        let Exported { base, adapter } = find(&api, export.model).await?;
        let unreachable = |reason: JobError| ApiError::unreachable(reason, "try again when its builder is there");
        let providers: Vec<NodeId> = adapter.iter().map(|(_, node)| *node).collect();
        let workshop = &api.workshop;
        workshop.hold_base(base, &providers).await.map_err(unreachable)?;
        let adapter = match adapter {
            Some((id, _)) => workshop.blob(id, &providers, ADAPTER_MAX_BYTES).await.map_err(unreachable)?.to_vec(),
            None => Vec::new(),
        };
        let source = workshop.base_path(base).await.map_err(ApiError::internal)?;
        let source = source.to_str().map(str::to_owned).ok_or_else(|| ApiError::internal("a path is no text"))?;
        let Export { format, out, model } = export;
        let job = fresh_key()?;
        let ask = ExportAsk { base, source, adapter, format: format.clone(), into: out.clone() };
        let refused =
            |reason: JobError| ApiError::verification(reason, "nothing was written; see tributary model export --help");
        match workshop.ask(job, &Ask::Export { job, export: ask }).await.map_err(refused)? {
            Done::Exported { files, worst_millionths, largest_millionths, positions } => {
                let files: Vec<Value> =
                    files.iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect();
                Ok(Json(json!({
                    "model": model,
                    "base": base,
                    "format": format,
                    "out": out,
                    "files": files,
                    "positions_compared": positions,
                    "largest_logit_millionths": largest_millionths,
                    "worst_difference_millionths": worst_millionths,
                })))
            }
            _ => Err(ApiError::internal("the engine answered another question")),
        }
    })
    .await
}
