//! The API that OpenAI's clients speak: `/v1/models`, `/v1/completions`, `/v1/chat/completions`, `/v1/embeddings`.
//!
//! A model is a released adapter, by its name or its hash; the answer is the network's, paid and attributed like any
//! other. What a client sends and we would compute otherwise than it expects is refused, not ignored. The receipt and
//! everybody's share stand in `tributary`, beside the fields that clients know, and in a message's `annotations`.
//! The format is that of <https://platform.openai.com/docs/api-reference>.
//!
//! Invariant: what was streamed is, in the end, the text of the receipt, or the stream ends with an error.

mod embeddings;
mod logprobs;
mod reply;
mod request;

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tributary_protocol::logprobs::TokenReport;

use self::logprobs::{Logprobs, of_text};
use self::reply::{Frame, Shape};
use self::request::{Chat, Completion, Question};
use super::asks::{self, Event};
use super::{Api, ApiError, ApiState, BODY_MAX_BYTES};
use crate::runtime::now_ms;

/// The routes.
pub(super) fn routes() -> Router<Arc<ApiState>> {
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{id}", get(model))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/embeddings", post(embeddings::embed))
        .route("/v1/{*other}", any(unknown))
}

/// An error in the words of that API.
#[derive(Debug)]
struct OpenAiError {
    error: ApiError,
    /// Where the error alone would say another.
    status: Option<StatusCode>,
}

impl From<ApiError> for OpenAiError {
    fn from(error: ApiError) -> Self {
        Self { error, status: None }
    }
}

impl From<JsonRejection> for OpenAiError {
    fn from(rejection: JsonRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let sentence = format!("a request has at most {BODY_MAX_BYTES} bytes");
            let error = ApiError::usage(sentence, "shorten the prompt or the conversation");
            return Self { error, status: Some(rejection.status()) };
        }
        let text = rejection.body_text();
        // What went wrong stands behind what was tried.
        let fault = text.split_once("target type: ").map_or(text.as_str(), |(_, fault)| fault);
        let hint = match rejection {
            JsonRejection::MissingJsonContentType(_) => "send the request as application/json",
            _ => "fields are those of OpenAI's API",
        };
        let error = ApiError::usage(fault.to_owned(), hint);
        match field_of(fault) {
            Some(field) => error.about(field).into(),
            None => error.into(),
        }
    }
}

/// The field that serde's words are about: "missing field `model` …", or its path before a colon.
fn field_of(fault: &str) -> Option<&str> {
    let named = fault.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    let is_path = |path: &&str| path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.[]".contains(&byte));
    named.or_else(|| fault.split_once(": ").map(|(path, _)| path).filter(is_path))
}

/// The answer to a request without the key.
pub(super) fn unauthorised() -> Response {
    OpenAiError::from(ApiError::unauthorised()).into_response()
}

impl OpenAiError {
    fn body(&self) -> Value {
        let (kind, code) = match self.error.code() {
            _ if self.error.is_unauthorised() => ("invalid_request_error", "invalid_api_key"),
            "usage" => ("invalid_request_error", self.error.detail().unwrap_or("invalid_value")),
            "not_found" => ("invalid_request_error", "not_found"),
            "funds" => ("insufficient_quota", "insufficient_quota"),
            "unreachable" => ("server_error", "no_worker"),
            _ => ("server_error", "internal"),
        };
        let param = self.error.field();
        json!({"error": {"message": self.error.sentence_for_programs(), "type": kind, "param": param, "code": code}})
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        let status = match self.error.code() {
            _ if self.error.is_unauthorised() => StatusCode::UNAUTHORIZED,
            "usage" => StatusCode::BAD_REQUEST,
            "not_found" => StatusCode::NOT_FOUND,
            "funds" => StatusCode::PAYMENT_REQUIRED,
            // Clients try again by themselves after this one.
            "unreachable" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (self.status.unwrap_or(status), Json(self.body())).into_response()
    }
}

async fn listed(api: &ApiState) -> Result<Vec<Value>, OpenAiError> {
    let releases: Vec<_> = api
        .handle
        .view(|node| node.releases().map(|release| release.body.clone()).collect())
        .await
        .map_err(ApiError::from)?;
    let newest = |name: &str| releases.iter().rev().find(|release| release.name == name).map(|release| release.adapter);
    Ok(releases
        .iter()
        .map(|release| {
            let hash = release.adapter.to_string();
            let id = if newest(&release.name) == Some(release.adapter) { release.name.clone() } else { hash };
            reply::model(&id, &json!(release))
        })
        .collect())
}

async fn models(State(api): Api) -> Result<Json<Value>, OpenAiError> {
    Ok(Json(json!({"object": "list", "data": listed(&api).await?})))
}

async fn model(State(api): Api, Path(id): Path<String>) -> Result<Json<Value>, OpenAiError> {
    let named = |model: &Value| model["id"] == id.as_str() || model["tributary"]["adapter"] == id.as_str();
    let found = listed(&api).await?.into_iter().find(named);
    let missing = || ApiError::not_found(format!("no released model is called {id}"), "GET /v1/models lists them");
    Ok(Json(found.ok_or_else(missing)?))
}

async fn unknown(Path(other): Path<String>) -> OpenAiError {
    let hint = "there are models, completions, chat/completions and embeddings";
    ApiError::not_found(format!("/v1/{other} is not served"), hint).into()
}

async fn completions(State(api): Api, body: Result<Json<Completion>, JsonRejection>) -> Result<Response, OpenAiError> {
    answer(&api, body?.0.into_question()?, Shape::Completion).await
}

async fn chat(State(api): Api, body: Result<Json<Chat>, JsonRejection>) -> Result<Response, OpenAiError> {
    answer(&api, body?.0.into_question()?, Shape::Chat).await
}

async fn answer(api: &ApiState, question: Question, shape: Shape) -> Result<Response, OpenAiError> {
    let Question { mut ask, stream, usage, is_seeded } = question;
    if !is_seeded {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(ApiError::internal)?;
        ask.decoding.seed = u64::from_le_bytes(bytes);
    }
    let (model, max_tokens) = (ask.model.clone(), ask.decoding.max_tokens);
    let (key, mut events) = asks::begin(api, ask).await?;
    let frame = Frame { shape, id: key.to_string(), model, created_s: now_ms() / 1_000, max_tokens, api: api_url(api) };
    if !stream {
        let done = whole(&mut events).await?;
        return Ok(Json(frame.whole(&done)).into_response());
    }
    // Nothing is sent before something is known: until then an error has its own status.
    let first = events.recv().await;
    if let Some(Event::Failed(error)) = first {
        return Err(error.into());
    }
    let stream = Stream::new(frame, usage);
    let body = Body::from_stream(stream.into_events(first, events));
    Ok(([(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")], body).into_response())
}

/// Where this API is, for links to receipts.
fn api_url(api: &ApiState) -> String {
    let notice: Option<crate::home::ApiNotice> =
        std::fs::read(api.home.path("api.json")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    notice.map(|notice| format!("http://{}", notice.address)).unwrap_or_default()
}

fn cut_off() -> ApiError {
    ApiError::unreachable("the node is stopping", "ask again when it runs")
}

async fn whole(events: &mut mpsc::Receiver<Event>) -> Result<Value, OpenAiError> {
    loop {
        match events.recv().await {
            Some(Event::Text(..) | Event::Retry(_) | Event::Waiting(_)) => {}
            Some(Event::Done(done)) => return Ok(done),
            Some(Event::Failed(error)) => return Err(error.into()),
            None => return Err(cut_off().into()),
        }
    }
}

/// An answer on its way to a client, which can't take anything back.
struct Stream {
    frame: Frame,
    usage: bool,
    sent: String,
    attempt: String,
    logprobs: Logprobs,
    /// Tokens sent, those of the worker that answers now, and of these the ones that wait for their text.
    tokens_sent: usize,
    tokens_heard: usize,
    tokens_waiting: Vec<TokenReport>,
}

impl Stream {
    fn new(frame: Frame, usage: bool) -> Self {
        let logprobs = Logprobs::new(frame.shape);
        let (sent, attempt, tokens_waiting) = (String::new(), String::new(), Vec::new());
        Self { frame, usage, sent, attempt, logprobs, tokens_sent: 0, tokens_heard: 0, tokens_waiting }
    }

    /// The chunk of new text and the tokens that led to it, if there is any.
    fn piece(&mut self, text: &str) -> String {
        if text.is_empty() {
            return String::new();
        }
        let tokens = std::mem::take(&mut self.tokens_waiting);
        self.tokens_sent += tokens.len();
        let logprobs = self.logprobs.of(text, &tokens);
        data(&self.frame.piece(text, &logprobs))
    }

    /// Takes note of tokens, of which only those count that no worker gave before.
    fn hear(&mut self, tokens: Vec<TokenReport>) {
        for report in tokens {
            self.tokens_heard += 1;
            if self.tokens_heard > self.tokens_sent + self.tokens_waiting.len() {
                self.tokens_waiting.push(report);
            }
        }
    }

    /// The server-sent events of one thing that happened, and whether it was the last.
    fn events_of(&mut self, event: Event) -> (String, bool) {
        match event {
            Event::Text(text, tokens) => {
                self.hear(tokens);
                self.attempt.push_str(&text);
                // Another worker's answer is most often the first one's; it is sent on where it goes further.
                let new = self.attempt.strip_prefix(&self.sent).unwrap_or_default().to_owned();
                self.sent.push_str(&new);
                (self.piece(&new), false)
            }
            Event::Retry(_) => {
                self.attempt.clear();
                self.tokens_heard = 0;
                self.tokens_waiting.clear();
                (String::new(), false)
            }
            // A comment, which keeps the connection alive and which clients skip.
            Event::Waiting(_) => (": waiting for a worker\n\n".into(), false),
            Event::Failed(error) => (data(&OpenAiError::from(error).body()), true),
            Event::Done(done) => (self.end(&done), true),
        }
    }

    fn end(&mut self, done: &Value) -> String {
        let text = done["text"].as_str().unwrap_or_default();
        let Some(rest) = text.strip_prefix(&self.sent) else {
            let reason = "the first worker failed and another answered otherwise";
            return data(&OpenAiError::from(ApiError::unreachable(reason, "ask again")).body());
        };
        let tokens = reply::tokens(done);
        self.tokens_waiting = of_text(&tokens, text).get(self.tokens_sent..).unwrap_or_default().to_vec();
        let rest = self.piece(rest);
        let usage = if self.usage { data(&self.frame.usage_chunk(done)) } else { String::new() };
        format!("{rest}{}{usage}data: [DONE]\n\n", data(&self.frame.last(done)))
    }

    fn into_events(
        self,
        first: Option<Event>,
        events: mpsc::Receiver<Event>,
    ) -> impl futures::Stream<Item = Result<Bytes, Infallible>> {
        let opening = self.frame.opening().map(|chunk| data(&chunk)).unwrap_or_default();
        futures::stream::unfold(Some((self, opening, first, events)), |state| async move {
            let (mut stream, opening, first, mut events) = state?;
            let event = match first {
                Some(event) => Some(event),
                None => events.recv().await,
            };
            let (text, is_last) = stream.events_of(event.unwrap_or_else(|| Event::Failed(cut_off())));
            let next = (!is_last).then_some((stream, String::new(), None, events));
            Some((Ok(Bytes::from(opening + &text)), next))
        })
    }
}

fn data(chunk: &Value) -> String {
    format!("data: {chunk}\n\n")
}

#[cfg(test)]
mod tests {
    use tributary_protocol::logprobs::{Spelling, TokenLogprob};

    use super::*;

    fn stream() -> Stream {
        let frame = Frame {
            shape: Shape::Completion,
            id: "k".into(),
            model: "m".into(),
            created_s: 1,
            max_tokens: 8,
            api: "http://127.0.0.1:1".into(),
        };
        Stream::new(frame, false)
    }

    fn text(stream: &mut Stream, event: Event) -> String {
        let (events, _) = stream.events_of(event);
        let chunks = events.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        chunks
            .filter_map(|chunk| serde_json::from_str::<Value>(chunk).ok())
            .filter_map(|chunk| chunk["choices"][0]["text"].as_str().map(str::to_owned))
            .collect()
    }

    #[test]
    fn a_second_worker_with_the_same_answer_goes_on_where_the_first_stopped() {
        let mut stream = stream();
        assert_eq!(text(&mut stream, Event::Text("The riv".into(), vec![])), "The riv");
        assert_eq!(text(&mut stream, Event::Retry("gone".into())), "");
        assert_eq!(text(&mut stream, Event::Text("The ".into(), vec![])), "");
        assert_eq!(text(&mut stream, Event::Text("river Nev".into(), vec![])), "er Nev");
        assert_eq!(text(&mut stream, Event::Done(json!({"text": "The river Nevola"}))), "ola");
    }

    #[test]
    fn tokens_come_with_their_text_once_however_many_workers_gave_them() {
        let report = |text: &str| {
            let spelling = Spelling::Bytes(text.into());
            TokenReport { chosen: TokenLogprob { token: 1, spelling, minus_micro_nats: 5 }, top: vec![] }
        };
        let mut stream = stream();
        let mut told = String::new();
        let all = [report("The"), report(" ri"), report("v"), report("er")];
        for event in [
            Event::Text("The ri".into(), all[..2].to_vec()),
            Event::Retry("gone".into()),
            Event::Text("The".into(), all[..1].to_vec()),
            Event::Text(" riv".into(), all[1..3].to_vec()),
            Event::Done(json!({"text": "The river", "tokens": [all[0], all[1], all[2], all[3], report("STOP")]})),
        ] {
            told.push_str(&stream.events_of(event).0);
        }
        let chunks = told.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        let chunks = chunks.filter_map(|chunk| serde_json::from_str::<Value>(chunk).ok());
        let of =
            |chunk: Value| (chunk["choices"][0]["text"].clone(), chunk["choices"][0]["logprobs"]["tokens"].clone());
        let expected = [
            (json!("The ri"), json!(["The", " ri"])),
            (json!("v"), json!(["v"])),
            (json!("er"), json!(["er"])),
            (json!(""), Value::Null),
        ];
        assert_eq!(chunks.map(of).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_second_worker_with_another_answer_ends_in_an_error() {
        let mut stream = stream();
        text(&mut stream, Event::Text("The riv".into(), vec![]));
        text(&mut stream, Event::Retry("gone".into()));
        assert_eq!(text(&mut stream, Event::Text("A lake".into(), vec![])), "");
        let (events, is_last) = stream.events_of(Event::Done(json!({"text": "A lake"})));
        assert!(is_last && events.contains("\"error\"") && !events.contains("[DONE]"), "{events}");
    }

    #[test]
    fn a_stream_that_waits_says_so_in_a_comment_and_goes_on() {
        let mut stream = stream();
        let (events, is_last) = stream.events_of(Event::Waiting("nobody".into()));
        assert!(events.starts_with(':') && events.ends_with("\n\n") && !is_last);
        assert_eq!(text(&mut stream, Event::Text("later".into(), vec![])), "later");
    }

    #[test]
    fn each_kind_of_error_has_the_status_its_clients_expect() {
        let status = |error: ApiError| OpenAiError::from(error).into_response().status().as_u16();
        assert_eq!(status(ApiError::usage("u", "h")), 400);
        assert_eq!(status(ApiError::not_found("n", "h")), 404);
        assert_eq!(status(ApiError::funds("f", "h")), 402);
        assert_eq!(status(ApiError::unreachable("w", "h")), 503);
        assert_eq!(status(ApiError::unauthorised()), 401);
        assert_eq!(OpenAiError::from(ApiError::unauthorised()).body()["error"]["code"], "invalid_api_key");
        let unsupported = OpenAiError::from(ApiError::unsupported("tools", "t", "h")).body();
        assert_eq!(unsupported["error"]["code"], "unsupported_parameter");
        assert_eq!(
            (&unsupported["error"]["param"], status(ApiError::unsupported("tools", "t", "h"))),
            (&json!("tools"), 400)
        );
    }
}
