//! `/v1/embeddings`: texts to vectors, by this node's own engine.
//!
//! A vector is the mean of the model's last hidden states over the text's tokens, of length 1. Nobody else is asked and
//! nobody is paid: there is no answer whose makers a receipt could name.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::super::asks::find_model;
use super::super::{Api, ApiError, fresh_key};
use super::OpenAiError;
use super::request::Embedding;
use crate::engine::{Ask, Done};

pub(super) async fn embed(
    State(api): Api,
    body: Result<Json<Embedding>, JsonRejection>,
) -> Result<Json<Value>, OpenAiError> {
    let Json(body) = body?;
    let model = body.model.clone();
    let (inputs, as_numbers) = body.into_inputs()?;
    let wanted = model.clone();
    let found = api.handle.view(move |node| {
        let adapter = find_model(node, &wanted)?;
        node.release_of(&adapter).map(|release| release.body.clone())
    });
    let missing = || ApiError::not_found(format!("no released model is called {model}"), "GET /v1/models lists them");
    let release = found.await.map_err(ApiError::from)?.ok_or_else(missing)?;
    let had = api.workshop.load_release(&release, &[]).await;
    had.map_err(|reason| ApiError::unreachable(reason, "ask again when a node that holds the model is online"))?;
    let job = fresh_key()?;
    let ask = Ask::Embed { job, base: release.base, adapter: Some(release.adapter), inputs };
    match api.workshop.ask(job, &ask).await.map_err(ApiError::internal)? {
        Done::Embedded { vectors, tokens } => Ok(Json(list(&model, &vectors, tokens, as_numbers))),
        Done::Refused { reason, .. } => Err(ApiError::usage(reason, "send other texts").into()),
        _ => Err(ApiError::internal("the engine answered another question").into()),
    }
}

fn list(model: &str, vectors: &[Vec<f32>], tokens: u64, as_numbers: bool) -> Value {
    let data: Vec<Value> = vectors
        .iter()
        .enumerate()
        .map(|(index, vector)| {
            let embedding = if as_numbers { json!(vector) } else { json!(base64_of(vector)) };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    json!({"object": "list", "data": data, "model": model, "usage": usage})
}

/// Little-endian 32-bit floats, as that API's clients ask for them by default.
fn base64_of(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
    BASE64_STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_come_as_numbers_or_as_their_bytes() {
        let vectors = [vec![0.5, -0.5]];
        let numbers = list("m", &vectors, 3, true);
        assert_eq!(numbers["data"][0]["embedding"], json!([0.5, -0.5]));
        assert_eq!(numbers["usage"]["total_tokens"], 3);
        assert_eq!(list("m", &vectors, 3, false)["data"][0]["embedding"], "AAAAPwAAAL8=");
    }
}
