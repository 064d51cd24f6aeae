//! Judging on this machine: answers computed again, and what proofs of falsification say of them.
//!
//! Invariant: nothing that is judged changes by what this node answers: an adapter that it knows under another release is
//! not loaded for a stranger's proof. Whatever is missing here, or fails here, convicts nobody.

use tributary_protocol::id::{Hash, NodeId};
use tributary_protocol::message::Release;
use tributary_protocol::node::shares_of;
use tributary_protocol::proof::{Case, Comparison, Found, Judgement, Need, Proof, Recomputed};
use tributary_protocol::retrieval::Context;
use tributary_protocol::span::Fault;
use tributary_storage::shard::record_id;

use super::{JobError, Workshop, places};
use crate::engine::{Ask, Done};
use crate::lock::locked;
use crate::runtime::now_ms;

/// Takes a place among what is loaded, and gives it back.
struct Loading<'a>(&'a Workshop, Hash);

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        locked(&self.0.loading).remove(&self.1);
    }
}

impl Workshop {
    /// Computes an answer again by an adapter that the engine keeps: how many fingerprints were compared, and what was
    /// computed or why nothing was.
    pub(super) async fn compute_again(
        &self,
        job: Hash,
        case: &Case,
    ) -> Result<(u32, Result<Recomputed, String>), JobError> {
        let (receipt, request) = (&case.receipt, &case.request.body);
        let passages = case.transcript().map(|sent| sent.context.passages).unwrap_or_default();
        let foreign = self.foreign_passage(&passages, &case.release.body).await;
        if let Ok(Some(fault)) = foreign {
            let again = Recomputed { class: receipt.class.clone(), fault: Some(fault), ..Recomputed::default() };
            return Ok((0, Ok(again)));
        }
        let ask = Ask::Check {
            job,
            base: receipt.base,
            adapter: request.adapter,
            index: receipt.attribution.index,
            class: receipt.class.clone(),
            prompt: request.prompt.clone(),
            transcript: case.transcript.clone(),
            decoding: request.decoding.clone(),
        };
        match self.ask(job, &ask).await? {
            Done::Checked { abstained: Some(reason), fingerprints, .. } => Ok((fingerprints, Err(reason))),
            Done::Checked { fault, abstained: None, fingerprints, credits, losses, text, root, logprobs } => {
                let answer = Hash::of(text.as_bytes());
                let class = receipt.class.clone();
                let again = Recomputed { class, fault, answer, fingerprints: root, logprobs, credits, losses };
                // What is false is false whosever the records were; only where nothing is, that has to be known too.
                Ok(match foreign {
                    Err(reason) if case.compare(&again) == Comparison::Equal => (fingerprints, Err(reason.to_string())),
                    _ => (fingerprints, Ok(again)),
                })
            }
            other => Err(format!("the engine answered another question: {other:?}").into()),
        }
    }

    /// Computes the answer of `case` again, after fetching from peers what is missing here. `job` is nobody else's.
    pub async fn recompute(&self, job: Hash, case: &Case) -> Found {
        match self.try_recompute(job, case).await {
            Ok(Ok(again)) => Found::Answer(again),
            Ok(Err(reason)) => Found::Nothing(reason),
            Err(error) => self.nothing(&error),
        }
    }

    /// What the answer of `case`, if it is as its worker signed, pays by the adapters that were really trained without each
    /// contributor. `job` is nobody else's.
    pub async fn true_shares(&self, job: Hash, case: &Case) -> Found {
        match self.try_true_shares(job, case).await {
            Ok(found) => found,
            Err(error) => self.nothing(&error),
        }
    }

    async fn try_true_shares(&self, job: Hash, case: &Case) -> Result<Found, JobError> {
        let again = match self.try_recompute(job, case).await? {
            Ok(again) => again,
            Err(reason) => return Ok(Found::Nothing(reason)),
        };
        if case.compare(&again) != Comparison::Equal {
            return Ok(Found::Nothing("the answer itself is not what its worker signed".into()));
        }
        let release = &case.release.body;
        let providers = self.providers_of(release).await?;
        let _loading = self.begin_loading(release.adapter)?;
        let credits = self.credits_by_adapters(job, release, &case.transcript, &providers).await?;
        let context = Context { passages: case.transcript()?.context.passages, losses: again.losses };
        Ok(Found::Shares(again.class, shares_of(release, &credits, &context)))
    }

    async fn try_recompute(&self, job: Hash, case: &Case) -> Result<Result<Recomputed, String>, JobError> {
        if let Some(reason) = case.inconsistency() {
            return Err(reason.into());
        }
        let release = &case.release.body;
        let providers = self.providers_of(release).await?;
        {
            let _loading = self.begin_loading(release.adapter)?;
            self.load_release(release, &providers).await?;
        }
        Ok(self.compute_again(job, case).await?.1)
    }

    /// Who may have the files of a release, unless this node knows the adapter under another one.
    pub(super) async fn providers_of(&self, release: &Release) -> Result<Vec<NodeId>, JobError> {
        let (adapter, commitment) = (release.adapter, release.contributors_commitment());
        let look = move |node: &tributary_protocol::node::Node| {
            let known = node.release_of(&adapter).map(|known| (known.body.contributors_commitment(), known.body.index));
            (known, node.peers_serving(now_ms(), &adapter))
        };
        let (known, serving) = self.node.view(look).await.map_err(|error| error.to_string())?;
        if known.is_some_and(|known| known != (commitment, release.index)) {
            return Err("this node knows the adapter under another release".into());
        }
        Ok(serving)
    }

    fn begin_loading(&self, what: Hash) -> Result<Loading<'_>, JobError> {
        if !locked(&self.loading).insert(what) {
            return Err("the adapter is being loaded just now; try again".into());
        }
        Ok(Loading(self, what))
    }

    /// Judges a proof, computing here what it needs. `job` is nobody else's.
    pub async fn judge(&self, job: Hash, proof: &Proof) -> Judgement {
        let need = match proof.judge() {
            Judgement::Needs(need) => need,
            judged => return judged,
        };
        let found = match (need, proof) {
            (Need::Answer, Proof::Answer { case, .. }) => self.recompute(job, case).await,
            (Need::Index, Proof::Row { release, .. }) => match self.index_again(&release.body).await {
                Ok(built) => Found::Index(built),
                Err(error) => self.nothing(&error),
            },
            (Need::Shares, Proof::Audit { case, .. }) => self.true_shares(job, case).await,
            _ => {
                let shown = proof.clone();
                let looked = tokio::task::spawn_blocking(move || with_record(&shown)).await;
                looked.unwrap_or_else(|error| Found::Nothing(error.to_string()))
            }
        };
        proof.conclude(&found)
    }

    async fn index_again(&self, release: &Release) -> Result<Hash, JobError> {
        // Under a name of its own: what is served meanwhile is another index.
        let _judging = self.begin_loading(Hash::of(&[b"judge".as_slice(), &release.adapter.0].concat()))?;
        let adapter = release.adapter;
        let serving = self.node.view(move |node| node.peers_serving(now_ms(), &adapter)).await;
        let mut providers = serving.map_err(|error| error.to_string())?;
        providers.insert(0, release.node);
        self.index_of(release.base, adapter, &release.contributors, &providers, false).await
    }

    fn nothing(&self, error: &JobError) -> Found {
        Found::Nothing(places::stripped(&error.to_string(), &self.home()))
    }
}

/// What a proof needs of a record: whether the text that it shows is the one that the record's id is the hash of. The
/// text of a conversation does not say the conversation, so such a record convicts nobody here.
#[must_use]
pub fn with_record(proof: &Proof) -> Found {
    let Proof::Span { fault, .. } = proof else { return Found::Nothing("no record is in question".into()) };
    let Fault::Words { record, content, .. } = fault.as_ref() else {
        return Found::Nothing("no record is in question".into());
    };
    let is_split = |(at, _): (usize, &str)| record_id(&content[..at], &content[at + 1..]) == *record;
    if content.match_indices('\n').take(SPLITS_MAX).any(is_split) {
        return Found::Record(true);
    }
    Found::Nothing("the record's id is not of this text, unless it is a conversation".into())
}

/// Lines of a record after which its completion may begin, as far as is tried: each is hashed whole.
const SPLITS_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use tributary_protocol::envelope::{NetworkId, Signed};
    use tributary_protocol::span::SpanRoots;

    use super::*;

    fn about(record: Hash, content: &str) -> Proof {
        let network = NetworkId::named("test");
        let root = Hash::default();
        let roots =
            SpanRoots { shard: root, entries: 1, records: 1, text: root, order: root, inverse: root, starts: root };
        let (start, number, siblings, text) = (0, 0, Vec::new(), Vec::new());
        let content = content.to_owned();
        Proof::Span {
            network,
            roots: Box::new(Signed::new(network, &SigningKey::from_bytes(&[1; 32]), roots)),
            fault: Box::new(Fault::Words { number, record, start, siblings, content, text }),
        }
    }

    #[test]
    fn a_record_is_known_by_its_text_wherever_its_lines_break() {
        let id = record_id("First\nsecond?", "Third.\n");
        assert_eq!(with_record(&about(id, "First\nsecond?\nThird.\n")), Found::Record(true));
        for other in ["First\nsecond?\nThird.", "First", ""] {
            assert!(matches!(with_record(&about(id, other)), Found::Nothing(_)), "{other}");
        }
    }
}
