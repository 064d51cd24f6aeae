//! Routes about questions: answers stream as lines of JSON.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc};
use tributary_protocol::decoding::{Decoding, Prompt};
use tributary_protocol::id::{Amount, Hash};
use tributary_protocol::limits::{PASSAGES_MAX, PROMPT_MAX_BYTES};
use tributary_protocol::logprobs::TokenReport;
use tributary_protocol::node::{AskCommand, AskView, Command, Node};
use tributary_protocol::receipt::Work;
use tributary_protocol::refusal::{Refusal, RefusalKind};

use super::{Answer, Api, ApiError, ApiState, bases, fresh_key, sources, tasks};
use crate::answers::Piece;
use crate::engine::asking::AskFault;
use crate::engine::{Ask as EngineAsk, Done};
use crate::handle::NodeHandle;
use crate::runtime::now_ms;

/// Lines that wait for a slow reader.
const LINES: usize = 256;
/// How often the state of a question is looked at while its text streams.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long a question that nobody answers waits before its asker hears so.
const WAITING_AFTER: Duration = Duration::from_secs(2);
/// Digits of a hash that name a model at least, so that a word is not taken for one.
const PREFIX_MIN: usize = 8;
/// The longest a question may wait for its answer, in seconds.
pub const TIMEOUT_MAX_S: u64 = 3_600;
/// How long it waits unless its asker says otherwise.
const TIMEOUT_S: u64 = 120;

/// What the OpenAI API calls a prompt that does not fit.
const TOO_LONG: &str = "context_length_exceeded";
const SHORTEN: &str = "shorten the prompt";

/// A question.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) key: Option<Hash>,
    pub(super) model: String,
    pub(super) prompt: Prompt,
    pub(super) decoding: Decoding,
    /// How many records are to be retrieved for it at most.
    pub(super) retrieve: u8,
    pub(super) price_max: Option<Amount>,
    pub(super) check: Option<bool>,
    pub(super) timeout_s: Option<u64>,
}

/// A question, as this API takes it: a prompt, or `messages` and what else a chat template takes.
#[derive(Debug, Deserialize)]
pub(super) struct AskBody {
    key: Option<Hash>,
    model: String,
    prompt: Option<String>,
    messages: Option<Value>,
    #[serde(flatten)]
    decoding: Decoding,
    retrieve: Option<u8>,
    price_max: Option<Amount>,
    check: Option<bool>,
    timeout_s: Option<u64>,
}

impl AskBody {
    fn into_ask(self) -> Result<Ask, ApiError> {
        let prompt = match (self.prompt, self.messages) {
            (Some(prompt), None) => Prompt::Text(prompt),
            (None, Some(messages)) => chat(&json!({"messages": messages})),
            (None, None) => return Err(ApiError::usage("there is neither a prompt nor messages", "send one of both")),
            _ => return Err(ApiError::usage("there are a prompt and messages", "send one of both")),
        };
        let Self { key, model, decoding, retrieve, price_max, check, timeout_s, .. } = self;
        let retrieve = retrieve.unwrap_or(0);
        Ok(Ask { key, model, prompt, decoding, retrieve, price_max, check, timeout_s })
    }
}

/// The prompt of a conversation that is put now.
pub(super) fn chat(conversation: &Value) -> Prompt {
    Prompt::Chat { conversation: conversation.to_string(), at_s: now_ms() / 1_000 }
}

pub(super) async fn ask(State(api): Api, Json(body): Json<AskBody>) -> Result<Response, ApiError> {
    let (_, waiting) = begin(&api, body.into_ask()?).await?;
    let body = futures::stream::unfold(waiting, |mut waiting| async move {
        let line = match waiting.recv().await? {
            Event::Text(text, tokens) if tokens.is_empty() => json!({"text": text}),
            Event::Text(text, tokens) => json!({"text": text, "tokens": tokens}),
            Event::Retry(reason) => json!({"retry": reason}),
            Event::Waiting(reason) => json!({"waiting": reason}),
            Event::Done(shown) => json!({"done": shown}),
            Event::Failed(error) => error.to_json(),
        };
        Some((Ok::<_, Infallible>(Bytes::from(format!("{line}\n"))), waiting))
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response())
}

/// What happens to a question, in order; it ends with one of the last two.
#[derive(Debug)]
pub(super) enum Event {
    /// More text, with the tokens that led to it where their probabilities were asked for.
    Text(String, Vec<TokenReport>),
    /// The worker failed; the text so far is void and another worker is asked.
    Retry(String),
    /// Nobody can be asked yet; said once.
    Waiting(String),
    /// The answer as [`show`] shows it, with `tokens` where their probabilities were asked for.
    Done(Value),
    /// There is no answer.
    Failed(ApiError),
}

/// Asks, after everything that can be refused at once was looked at; returns the question's key and what happens.
pub(super) async fn begin(api: &ApiState, ask: Ask) -> Result<(Hash, mpsc::Receiver<Event>), ApiError> {
    let is_blank = matches!(&ask.prompt, Prompt::Text(text) if text.trim().is_empty());
    if is_blank || ask.prompt.is_empty() {
        return Err(
            ApiError::usage("the prompt is empty", "send the text that the model is to go on from").about("prompt")
        );
    }
    if ask.prompt.len() > PROMPT_MAX_BYTES {
        let reason = format!("the prompt has {} bytes, at most {PROMPT_MAX_BYTES}", ask.prompt.len());
        return Err(ApiError::usage(reason, SHORTEN).with_detail(TOO_LONG));
    }
    let timeout_s = ask.timeout_s.unwrap_or(TIMEOUT_S);
    if !(1..=TIMEOUT_MAX_S).contains(&timeout_s) {
        let reason = format!("a question may wait 1 to {TIMEOUT_MAX_S} seconds, not {timeout_s}");
        return Err(ApiError::usage(reason, "choose another --timeout-s").about("timeout_s"));
    }
    let model = ask.model.clone();
    let adapter = api.handle.view(move |node| find_model(node, &model)).await?;
    let adapter = adapter.ok_or_else(|| {
        let hint = "tributary model ls shows what is released";
        ApiError::not_found(format!("no released model is called {}", ask.model), hint)
    })?;
    if let Some(fault) = ask.decoding.fault() {
        let field = fault.split(' ').next().unwrap_or_default().to_owned();
        let error = ApiError::usage(fault, "see tributary ask --help");
        // Most of these sentences begin with their field.
        return Err(if field.contains('_') { error.about(&field) } else { error });
    }
    if usize::from(ask.retrieve) > PASSAGES_MAX {
        let reason = format!("at most {PASSAGES_MAX} records are retrieved for a question, not {}", ask.retrieve);
        return Err(ApiError::usage(reason, "choose a lower --retrieve").about("retrieve"));
    }
    let price_max = ask.price_max.unwrap_or(Amount::OPEN);
    let key = ask.key.map_or_else(fresh_key, Ok)?;
    check_funds(api, key, adapter, price_max).await?;
    let command = AskCommand {
        key,
        adapter,
        prompt: ask.prompt,
        decoding: ask.decoding,
        retrieve: ask.retrieve,
        price_max,
        deadline_ms: now_ms().saturating_add(timeout_s * 1_000),
        check: ask.check.unwrap_or(false),
    };
    let pieces = api.workshop.answers.listen(key);
    api.handle.command(Command::Ask(command)).await?;
    let (events, waiting) = mpsc::channel(LINES);
    tokio::spawn(stream_answer(api.handle.clone(), key, pieces, events));
    Ok((key, waiting))
}

/// An answer that cannot be paid is not asked for. Without a chain nothing is paid, and a chain that is down keeps
/// nobody from asking.
async fn check_funds(api: &ApiState, key: Hash, adapter: Hash, price_max: Amount) -> Result<(), ApiError> {
    if api.settlement.notice().is_none() {
        return Ok(());
    }
    let now = now_ms();
    let look = move |node: &Node| (node.chain_address(), node.answer_price_from(now, &adapter), node.ask_view(&key));
    let (address, price, known) = api.handle.view(look).await?;
    let is_new = known.is_none_or(|view| view.failure.is_some());
    let Some(price) = price.filter(|price| is_new && *price <= price_max) else { return Ok(()) };
    let Ok(have) = api.settlement.balance(address).await else { return Ok(()) };
    if have >= price {
        return Ok(());
    }
    let reason = format!("an answer costs at least {} OPEN, the wallet holds {} OPEN", price.to_open(), have.to_open());
    Err(ApiError::funds(reason, "have OPEN sent to this wallet; tributary wallet show prints its address"))
}

/// The adapter of that hash, else the newest release of that name, else the only one whose hash begins so.
pub(super) fn find_model(node: &Node, model: &str) -> Option<Hash> {
    let by_hash = model.parse().ok().filter(|adapter| node.release_of(adapter).is_some());
    let named = || node.releases().filter(|release| release.body.name == model).map(|found| found.body.adapter).last();
    by_hash.or_else(named).or_else(|| {
        let begins = |adapter: &Hash| model.len() >= PREFIX_MIN && adapter.to_string().starts_with(model);
        let mut begun = node.releases().map(|release| release.body.adapter).filter(begins);
        begun.next().filter(|_| begun.next().is_none())
    })
}

async fn stream_answer(
    handle: NodeHandle,
    key: Hash,
    mut pieces: broadcast::Receiver<Piece>,
    events: mpsc::Sender<Event>,
) {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    let notice = tokio::time::sleep(WAITING_AFTER);
    tokio::pin!(notice);
    let mut is_noticed = false;
    let mut tokens = None;
    loop {
        let event = tokio::select! {
            () = &mut notice, if !is_noticed => {
                is_noticed = true;
                waiting_for_worker(&handle, key).await
            }
            piece = pieces.recv() => match piece {
                Ok(Piece::Text(text, tokens)) => Some(Event::Text(text, tokens)),
                Ok(Piece::Tokens(all)) => {
                    tokens = Some(all);
                    None
                }
                Ok(Piece::Retry(reason)) => Some(Event::Retry(reason)),
                Err(_) => None,
            },
            _ = looks.tick() => None,
            () = events.closed() => return,
        };
        if let Some(event) = event {
            if events.send(event).await.is_err() {
                return;
            }
            continue;
        }
        let Ok(seen) = handle
            .view(move |node| {
                let view = node.ask_view(&key)?;
                Some(has_ended(&view).then(|| (show_ask(node, key, &view), view.failure)))
            })
            .await
        else {
            return;
        };
        let Some(ended) = seen else { return };
        if let Some((mut shown, failure)) = ended {
            // Who computed them told of them before the answer counted.
            while let Ok(piece) = pieces.try_recv() {
                if let Piece::Tokens(all) = piece {
                    tokens = Some(all);
                }
            }
            if let Some(tokens) = tokens {
                shown["tokens"] = json!(*tokens);
            }
            let event = match failure {
                Some(refusal) => Event::Failed(refused(refusal)),
                None => Event::Done(shown),
            };
            let _ = events.send(event).await;
            return;
        }
    }
}

/// What to say when nobody could be asked so far.
async fn waiting_for_worker(handle: &NodeHandle, key: Hash) -> Option<Event> {
    let is_asked = |view: AskView| view.worker.is_some() || has_ended(&view);
    let found = handle.view(move |node| node.ask_view(&key).is_none_or(is_asked)).await;
    let nobody = matches!(found, Ok(false));
    nobody.then(|| Event::Waiting("nobody serves this model now: waiting for a peer that does".into()))
}

fn has_ended(view: &AskView) -> bool {
    view.failure.is_some() || view.receipt.is_some()
}

/// Why there is no answer, with what can be done about it.
fn refused(refusal: Refusal) -> ApiError {
    let Refusal { kind, reason } = refusal;
    match kind {
        RefusalKind::Transient => ApiError::unreachable(reason, "see who serves the model with tributary model ls"),
        RefusalKind::Price => ApiError::usage(reason, "raise --max-price, or ask another model").about("price_max"),
        RefusalKind::TooLong => ApiError::usage(reason, SHORTEN).with_detail(TOO_LONG),
        RefusalKind::Funds => {
            ApiError::funds(reason, "have OPEN sent to this wallet; earlier answers are then paid by themselves")
        }
        RefusalKind::Invalid => ApiError::usage(reason, "see tributary ask --help"),
    }
}

/// Of a question, the characters that people are shown.
const QUESTION_CHARS: usize = 400;

/// What was asked, for people: the text, or what a conversation's last message says.
fn question(node: &Node, key: &Hash, view: &AskView) -> Option<String> {
    let kept = || node.audit_of(key).map(|audit| &audit.request.body.prompt);
    let asked = match view.prompt.as_ref().or_else(kept)? {
        Prompt::Text(text) => text.clone(),
        Prompt::Chat { conversation, .. } => {
            let conversation: Value = serde_json::from_str(conversation).ok()?;
            conversation["messages"].as_array()?.last()?["content"].as_str()?.to_owned()
        }
    };
    let cut = asked.char_indices().nth(QUESTION_CHARS).map(|(end, _)| format!("{}…", &asked[..end]));
    Some(cut.unwrap_or(asked))
}

fn show_ask(node: &Node, key: Hash, view: &AskView) -> Value {
    let receipt = view.receipt.and_then(|id| node.receipt_of(&id)).map(|signed| &signed.receipt);
    let verdict = view.verdict.as_ref();
    let tokens = receipt.and_then(|receipt| match &receipt.work {
        Work::Inference { prompt_tokens, answer_tokens, .. } => Some((*prompt_tokens, *answer_tokens)),
        Work::Training { .. } | Work::Audit { .. } => None,
    });
    json!({
        "key": key,
        "question": question(node, &key, view),
        "text": view.text,
        "receipt": view.receipt,
        "worker": receipt.map(|receipt| receipt.worker_node).or(view.worker),
        "failure": view.failure.as_ref().map(|refusal| &refusal.reason),
        "verdict": verdict.map(|verdict| tasks::verdict_json(&verdict.account.to_string(), &verdict.body)),
        "auditors": view.receipt.map(|id| node.auditors_of(&id)),
        "shares": receipt.map(|receipt| &receipt.shares),
        "commons": receipt.map(|receipt| receipt.commons),
        "price": receipt.map(|receipt| receipt.price),
        "sources": sources::show(node, &key),
        "finished_ms": receipt.map(|receipt| receipt.finished_ms),
        "prompt_tokens": tokens.map(|(prompt, _)| prompt),
        "answer_tokens": tokens.map(|(_, answer)| answer),
    })
}

pub(super) async fn show(State(api): Api, Path(key): Path<Hash>) -> Answer<Value> {
    let found = api.handle.view(move |node| node.ask_view(&key).map(|view| show_ask(node, key, &view))).await?;
    found.map(Json).ok_or_else(|| ApiError::not_found(format!("question {key} is not known here"), "ask it first"))
}

pub(super) async fn list(State(api): Api) -> Answer<Vec<Value>> {
    Ok(Json(api.handle.view(|node| node.asks().map(|(key, view)| show_ask(node, key, &view)).collect()).await?))
}

#[derive(Deserialize)]
pub(super) struct Generate {
    base: String,
    prompt: String,
    max_tokens: Option<u32>,
}

/// The base alone, on this machine: what an adapter is compared with.
pub(super) async fn generate(State(api): Api, Json(ask): Json<Generate>) -> Answer<Value> {
    let base = bases::resolve(&api, &ask.base).await?;
    let failed = |reason: String| ApiError::usage(reason, "check base and prompt");
    api.workshop.hold_base(base, &[]).await.map_err(ApiError::internal)?;
    let job = fresh_key()?;
    let request = EngineAsk::Answer {
        job,
        base,
        adapter: None,
        prompt: Prompt::Text(ask.prompt),
        passages: Vec::new(),
        decoding: Decoding { max_tokens: ask.max_tokens.unwrap_or(64), ..Decoding::default() },
    };
    let asked = api.workshop.engine.ask(job, &request).await.map_err(|fault| match fault {
        AskFault::Failed(reason) => failed(reason),
        other => ApiError::internal(other),
    });
    match asked? {
        Done::Answered { text, .. } => Ok(Json(json!({"text": text}))),
        Done::Refused { reason, .. } => Err(failed(reason)),
        _ => Err(ApiError::internal("the engine answered another question")),
    }
}
