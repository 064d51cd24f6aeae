//! Retrieving records for a question, and whether a worker's were records of the model's version.
//!
//! Invariant: a worker is refuted only for what the release itself decides: the version is known by its hash, its shards by
//! theirs, and who is credited follows from both; whoever lacks any of it abstains.

use serde_json::Value;
use tributary_protocol::datanet::Dated;
use tributary_protocol::decoding::Prompt;
use tributary_protocol::message::{InferenceRequest, Release};
use tributary_protocol::retrieval::Passage;
use tributary_storage::retrieval::MAX_TEXT_BYTES;

use super::{JobError, Workshop};
use crate::retrieval::{POOL_MAX, key_of, pool};

/// The words to look up: the text, or the user's last message.
fn question(prompt: &Prompt) -> String {
    let last = |conversation: &str| {
        let parsed: Value = serde_json::from_str(conversation).ok()?;
        let last = parsed["messages"].as_array()?.iter().rfind(|message| message["role"] == "user")?;
        Some(last["content"].as_str()?.to_owned())
    };
    match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Chat { conversation, .. } => last(conversation).unwrap_or_default(),
    }
}

/// Why nothing is retrieved from a version, by anybody, if it is too large.
fn too_many(entries: &[Dated]) -> Option<String> {
    let records: u64 = entries.iter().map(|dated| u64::from(dated.entry.body.records)).sum();
    (records > POOL_MAX).then(|| format!("the model has {records} records; from at most {POOL_MAX} is retrieved"))
}

impl Workshop {
    /// The records that are to stand before a question, the best last; none where none are wanted or found.
    pub(super) async fn retrieved(
        &self,
        request: &InferenceRequest,
        release: &Release,
    ) -> Result<Vec<Passage>, JobError> {
        if request.retrieve == 0 {
            return Ok(Vec::new());
        }
        let pool = async { self.pool_of(release).await.map_err(|error| error.to_string()) };
        let found = self.retrieval.pool(key_of(release), pool).await?;
        found.embed(self.engine.clone(), release.base);
        let question = question(&request.prompt);
        Ok(found.nearest(&self.engine, release.base, &question, request.retrieve.into()).await?)
    }

    /// All records that may be retrieved for a model.
    async fn pool_of(&self, release: &Release) -> Result<Vec<Passage>, JobError> {
        let entries = self.version_of(release).await?;
        if let Some(reason) = too_many(&entries) {
            return Err(reason.into());
        }
        let (admission, release) = (self.admission_within(&entries, MAX_TEXT_BYTES).await?, release.clone());
        Ok(tokio::task::spawn_blocking(move || pool(&release, admission)).await.map_err(|error| error.to_string())?)
    }

    /// The entries of the version that a release was trained on.
    pub(super) async fn version_of(&self, release: &Release) -> Result<Vec<Dated>, JobError> {
        let release = release.clone();
        let look = move |node: &tributary_protocol::node::Node| {
            let datanet = node.datanet(&release.datanet)?;
            datanet.version(&release.version(datanet)?)
        };
        let found = self.node.view(look).await.map_err(|error| error.to_string())?;
        Ok(found.ok_or("the records that this model was trained on are not known here")?)
    }

    /// What is wrong with the records that a worker says stood before a question, if anything is.
    ///
    /// # Errors
    /// When it can't be said here.
    pub(super) async fn foreign_passage(
        &self,
        passages: &[Passage],
        release: &Release,
    ) -> Result<Option<String>, JobError> {
        if passages.is_empty() {
            return Ok(None);
        }
        if let Some(reason) = too_many(&self.version_of(release).await?) {
            return Ok(Some(reason));
        }
        // One after the other: each takes memory by the size of the datanet, and strangers say when.
        let _turn = self.retrieval.turn().await;
        let pool = self.pool_of(release).await?;
        let foreign = passages.iter().find(|passage| !pool.contains(passage));
        Ok(foreign.map(|passage| {
            let record = passage.record.short();
            format!("record {record} is not, with this text and contributor, one that the model was trained on")
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_last_words_are_looked_up() {
        let chat = |conversation: &str| question(&Prompt::Chat { conversation: conversation.into(), at_s: 0 });
        assert_eq!(question(&"Who?".into()), "Who?");
        let messages = r#"{"messages":[{"role":"user","content":"a"},{"role":"user","content":"b"},{"role":"system","content":"c"}]}"#;
        assert_eq!(chat(messages), "b");
        for hostile in ["", "[]", r#"{"messages":[{"role":"user"}]}"#] {
            assert_eq!(chat(hostile), "");
        }
    }
}
