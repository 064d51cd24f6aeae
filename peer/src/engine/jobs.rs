//! The engine's jobs beside serving, one function each: train, replay, triage, cluster, index, check.

mod clustering;
mod estimating;
mod influence;
mod training;
mod triage;

use std::collections::BTreeMap;

use tributary_compute::attribute::{self, Index};
use tributary_compute::chat::ChatError;
use tributary_compute::engine::{GenerateParams, replay_answer};
use tributary_compute::lora::{Adapter, AdapterFiles};
use tributary_compute::model::Base;
use tributary_compute::proof::{self, Fingerprint, ProofVerdict, fingerprint_root};
use tributary_compute::sample::top_logprobs;
use tributary_compute::serve;
use tributary_compute::train::Recipe;
use tributary_protocol::decoding::{Decoding, Prompt};
use tributary_protocol::id::Hash;
use tributary_protocol::limits::PASSAGES_MAX;
use tributary_protocol::logprobs::commitment;

use super::bases;
use super::context::JobContext;
use super::retrieved::{is_too_much, losses, tokens_with};
use super::serving::{self, Ended, credits, params_of, reported};
use super::shelf::Served;
use super::{Ask, Done, ExampleFrame};
use crate::bundle::{self, Transcript};

/// Tokens of a record that quality is measured on, at the most: of longer ones the end, as in training.
const MEASURED_TOKENS: usize = 512;

/// Tokens of a record by whose gradients something is said of its contributor: as many as the default recipe trains on. A release
/// does not name its recipe, and what lies behind the cut was never trained on: whoever wrote it there is owed nothing for it.
fn learned_tokens(base: &Base) -> usize {
    base.config().max_positions.min(Recipe::default().max_len as usize)
}

/// What to do about a chat template that can't be used.
const TEMPLATE_HINT: &str = "correct it, or take it out of the model's files to use the base without one";

fn text<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

pub(super) fn perform(context: &JobContext, ask: Ask) -> Result<Done, String> {
    match ask {
        Ask::Train { run, resume, .. } => training::train(context, &run, resume.as_deref()),
        Ask::Adopt { run, whole, checkpoint, .. } => training::adopt(context, &run, &whole, &checkpoint),
        Ask::Replay { run, start, to_step, .. } => training::replay(context, &run, start.as_deref(), to_step),
        Ask::Triage { triage, .. } => triage::triage(context, &triage),
        Ask::Estimate { estimate, .. } => estimating::estimate(context, &estimate),
        Ask::Cluster { cluster, .. } => clustering::cluster(context, &cluster),
        Ask::Influence { influence, .. } => influence::influence(context, &influence),
        Ask::Index { base, id, leave_out, clusters, keep, .. } => {
            index(context, (base, id), &leave_out, &clusters, keep)
        }
        Ask::Quality { base, id, leave_out, records, .. } => quality(context, (base, id), &leave_out, &records),
        Ask::TrueCredits { base, id, leave_out, transcript, .. } => {
            true_credits(context, (base, id), &leave_out, &transcript)
        }
        Ask::Open { id, index, .. } => open(context, id, index),
        Ask::Answer { base, adapter, prompt, passages, decoding, .. } => {
            serving::answer(context, (base, adapter), &prompt, passages, &decoding).or_else(Ended::into_done)
        }
        Ask::Embed { base, adapter, inputs, .. } => {
            serving::embed(context, base, adapter, inputs).or_else(Ended::into_done)
        }
        Ask::Credit { base, adapter, transcript, .. } => serving::credit(context, base, adapter, &transcript),
        Ask::Check { base, adapter, index, class, prompt, transcript, decoding, .. } => {
            check(context, base, adapter, &Claim { index, class, prompt, transcript, decoding })
        }
        Ask::Inspect { base, .. } => inspect(&context.shelf.base(base)?),
        Ask::Export { export, .. } => super::export::perform(context, &export),
        Ask::Base { .. } | Ask::Forget { .. } | Ask::Stop { .. } => Err("not a job".into()),
    }
}

/// A base that was loaded, and whose chat template can be used if it has one.
fn inspect(base: &Base) -> Result<Done, String> {
    match base.chat() {
        Ok(template) => template.check().map_err(|error| format!("{error}; {TEMPLATE_HINT}"))?,
        Err(error) if matches!(*error, ChatError::None) => {}
        Err(error) => return Err(format!("{error}; {TEMPLATE_HINT}")),
    }
    Ok(Done::Inspected(bases::facts_of(base)))
}

/// An adapter's blob, which names the base it is for: two bases of equal weights lead to two adapters.
fn adapter_bytes(adapter: &Adapter, base: Hash) -> Result<Vec<u8>, String> {
    Ok(bundle::adapter_to_bytes(adapter.to_files_on(&bundle::base_name(base)).map_err(text)?))
}

/// Reads an adapter's files, unless they name another base.
fn adapter_on(base: &Base, id: Hash, files: &AdapterFiles) -> Result<Adapter, String> {
    match bundle::base_of(files).map_err(text)? {
        Some(named) if named != id => Err(format!("the adapter is for base {}, not {}", named.short(), id.short())),
        _ => Adapter::from_files(base.config(), files).map_err(text),
    }
}

fn index(
    context: &JobContext,
    (base_id, id): (Hash, Hash),
    leave_out: &[(u32, Option<Hash>)],
    clusters: &[Vec<u32>],
    keep: bool,
) -> Result<Done, String> {
    let base = context.shelf.base(base_id)?;
    let files = handed(context, id)?;
    let adapter = adapter_on(&base, base_id, &files)?;
    let without = left_out(context, (base_id, &base), &adapter, leave_out)?;
    let index = Index::build_with(&adapter, &without, clusters).map_err(text)?;
    let commitment = index.commitment();
    if keep {
        context.shelf.keep(id, adapter, &files, index)?;
    }
    Ok(Done::Indexed { commitment })
}

/// The adapters without each contributor, or each set of them, which the node handed over.
fn left_out<Who: Clone>(
    context: &JobContext,
    (base_id, base): (Hash, &Base),
    adapter: &Adapter,
    leave_out: &[(Who, Option<Hash>)],
) -> Result<Vec<(Who, Adapter)>, String> {
    let one = |(who, blob): &(Who, Option<Hash>)| {
        let without = match blob {
            Some(blob) => adapter_on(base, base_id, &handed(context, *blob)?)?,
            None => adapter.untrained().map_err(text)?,
        };
        Ok((who.clone(), without))
    };
    leave_out.iter().map(one).collect()
}

fn quality(
    context: &JobContext,
    (base_id, id): (Hash, Hash),
    leave_out: &[(u32, Option<Hash>)],
    records: &[ExampleFrame],
) -> Result<Done, String> {
    let base = context.shelf.base(base_id)?;
    let served = context.shelf.served(&base, id)?;
    let without = left_out(context, (base_id, &base), &served.adapter, leave_out)?;
    let most = base.config().max_positions.min(MEASURED_TOKENS);
    let answers: Vec<_> = training::learned_from(&base, records, most)?.into_iter().map(|(_, answer)| answer).collect();
    attribute::quality(&base, &served.adapter, &served.index, &without, &answers).map(Done::Measured).map_err(text)
}

fn true_credits(
    context: &JobContext,
    (base_id, id): (Hash, Hash),
    leave_out: &[(u32, Option<Hash>)],
    transcript: &[u8],
) -> Result<Done, String> {
    let base = context.shelf.base(base_id)?;
    let served = context.shelf.served(&base, id)?;
    let without = left_out(context, (base_id, &base), &served.adapter, leave_out)?;
    let Transcript { prompt_tokens, output_tokens, credits, .. } = Transcript::from_bytes(transcript).map_err(text)?;
    let tokens = (prompt_tokens.as_slice(), output_tokens.as_slice());
    let found = attribute::true_credits(&base, &served.adapter, &without, tokens).map_err(text)?;
    let found: BTreeMap<u32, i64> = found.into_iter().map(|credit| (credit.contributor, credit.micro_nats)).collect();
    let settled = |(number, committed): (u32, i64)| (number, found.get(&number).copied().unwrap_or(committed));
    Ok(Done::TrueCredits(credits.into_iter().map(settled).collect()))
}

/// An adapter's files that the node handed over.
fn handed(context: &JobContext, blob: Hash) -> Result<AdapterFiles, String> {
    bundle::adapter_from_bytes(&handed_bytes(context, blob)?).map_err(text)
}

/// A blob that the node handed over.
fn handed_bytes(context: &JobContext, blob: Hash) -> Result<Vec<u8>, String> {
    std::fs::read(context.shelf.folder().blob(context.job, blob))
        .map_err(|error| format!("blob {} was not handed over: {error}", blob.short()))
}

fn open(context: &JobContext, id: Hash, index: Hash) -> Result<Done, String> {
    match context.shelf.folder().commitment(id) {
        Ok(commitment) if commitment == index => Ok(Done::Indexed { commitment }),
        _ => Err(format!("adapter {} is not kept with that index", id.short())),
    }
}

struct Claim {
    index: Hash,
    class: String,
    prompt: Prompt,
    transcript: Vec<u8>,
    decoding: Decoding,
}

fn check(context: &JobContext, base: Hash, adapter: Hash, claim: &Claim) -> Result<Done, String> {
    let base = context.shelf.base(base)?;
    let transcript = Transcript::from_bytes(&claim.transcript).map_err(text)?;
    let fingerprints = bundle::fingerprints_of(&transcript)?;
    let mut done = Checked { root: fingerprint_root(&fingerprints), ..Checked::default() };
    let count = u32::try_from(fingerprints.len()).unwrap_or(u32::MAX);
    // The base's files say which of the machine's classes it is computed in; only the machine may differ.
    let class = base.class();
    let passages = &transcript.context.passages;
    let most = u8::try_from(PASSAGES_MAX).unwrap_or(u8::MAX);
    let foreign = transcript.context.fault(most, usize::MAX);
    let asked =
        params_of(&claim.decoding).and_then(|params| Ok((params, tokens_with(&base, &claim.prompt, passages)?)));
    match asked {
        // Before anything is computed whose cost the number of records decides.
        _ if foreign.is_some() => done.fault = foreign.map(str::to_owned),
        _ if claim.class != class => {
            done.abstained = Some(format!("computed in class {}, this machine is {class}", claim.class));
        }
        Err(Ended::Refused(_, reason)) => done.fault = Some(format!("such a question has no answer: {reason}")),
        Err(Ended::Beyond(reason)) => done.abstained = Some(reason),
        Err(Ended::Failed(reason)) => return Err(reason),
        Ok((_, tokens)) if tokens != transcript.prompt_tokens => {
            done.fault = Some("the prompt's tokens are others".into());
        }
        Ok((_, tokens)) if is_too_much(passages.len(), tokens.len()) => {
            done.fault = Some("more records stand before the question than a worker may put there".into());
        }
        Ok((params, _)) => {
            let served = context.shelf.served(&base, adapter)?;
            if served.index.commitment() != claim.index {
                return Err(format!("adapter {} is kept here with another index", adapter.short()));
            }
            judge(&base, &served, &transcript, &fingerprints, (&params, claim.decoding.logprobs), &mut done)?;
            if done.fault.is_none() && done.abstained.is_none() {
                let again = losses(&base, &served.adapter, &claim.prompt, passages, &transcript.output_tokens, &|| {
                    !context.is_stopped()
                });
                done.losses = again.map_err(Ended::into_reason)?;
            }
        }
    }
    Ok(done.into_done(count))
}

/// Holds what the worker sent against what this machine computes.
fn judge(
    base: &Base,
    served: &Served,
    transcript: &Transcript,
    fingerprints: &[Fingerprint],
    (params, logprobs): (&GenerateParams, Option<u8>),
    done: &mut Checked,
) -> Result<(), String> {
    let (prompt, output) = (&transcript.prompt_tokens, &transcript.output_tokens);
    let mut reports = Vec::new();
    let mut heard = |token: u32, logits: &[f32]| {
        if let Some(most) = logprobs {
            let (chosen, top) = top_logprobs(logits, token, most)?;
            reports.push(reported(base.tokenizer(), &serve::TokenReport { chosen, top }));
        }
        Ok(())
    };
    let adapter = Some(&served.adapter);
    let verdict = proof::check_generation_with(base, adapter, prompt, output, fingerprints, params, &mut heard);
    match verdict.map_err(text)? {
        ProofVerdict::Match => {
            let replayed = replay_answer(base, params, prompt.len(), output).map_err(text)?;
            if replayed.finish.is_none() || replayed.tokens != output.len() {
                done.fault = Some("the answer was cut short".into());
            } else {
                done.credits = credits(base, served, prompt, output)?;
                done.text = replayed.text;
                done.logprobs = logprobs.map(|_| commitment(&reports));
            }
        }
        ProofVerdict::Mismatch { reason } => done.fault = Some(reason.to_string()),
        ProofVerdict::CannotCheck { reason } => done.abstained = Some(reason.to_string()),
    }
    Ok(())
}

#[derive(Default)]
struct Checked {
    fault: Option<String>,
    abstained: Option<String>,
    credits: Vec<(u32, i64)>,
    losses: Vec<i64>,
    text: String,
    root: Hash,
    logprobs: Option<Hash>,
}

impl Checked {
    fn into_done(self, fingerprints: u32) -> Done {
        let Self { fault, abstained, credits, losses, text, root, logprobs } = self;
        Done::Checked { fault, abstained, fingerprints, credits, losses, text, root, logprobs }
    }
}
