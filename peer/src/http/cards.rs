//! Routes about the cards of datanets.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};
use tributary_protocol::id::DatanetId;
use tributary_storage::card::{Card, CardError};

use super::{Answer, Api, ApiError, datanets};
use crate::cards::CardsError;

/// What is to be changed; what is left out stays as it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Edit {
    title: Option<String>,
    description: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    untag: Vec<String>,
    #[serde(default)]
    languages: Vec<String>,
    #[serde(default)]
    unlanguage: Vec<String>,
}

/// Letters and digits of a part of a language's code (BCP 47, RFC 5646 §2.1).
const SUBTAG_MAX: usize = 8;

/// Whether `code` is formed like a language's code: `en`, `pt-BR`, `zh-Hant-TW`.
fn is_language(code: &str) -> bool {
    let is_subtag =
        |part: &str| (1..=SUBTAG_MAX).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric());
    let first = code.split('-').next().unwrap_or_default();
    first.len() >= 2 && first.bytes().all(|b| b.is_ascii_alphabetic()) && code.split('-').all(is_subtag)
}

/// Whether `tag` is one word.
fn is_tag(tag: &str) -> bool {
    !tag.is_empty() && !tag.chars().any(|letter| letter.is_whitespace() || letter.is_control())
}

impl Edit {
    fn check(&self) -> Result<(), ApiError> {
        if let Some(code) = self.languages.iter().find(|code| !is_language(code)) {
            return Err(ApiError::usage(format!("{code} is no language's code"), "give codes such as en or pt-BR"));
        }
        if let Some(tag) = self.tags.iter().find(|tag| !is_tag(tag)) {
            return Err(ApiError::usage(format!("the tag {tag:?} is not one word"), "join its words with a hyphen"));
        }
        Ok(())
    }

    fn make(self, card: &mut Card) {
        card.title = self.title.unwrap_or_else(|| std::mem::take(&mut card.title));
        card.description = self.description.unwrap_or_else(|| std::mem::take(&mut card.description));
        card.tags.retain(|tag| !self.untag.contains(tag));
        card.tags.extend(self.tags);
        card.languages.retain(|language| !self.unlanguage.contains(language));
        card.languages.extend(self.languages);
    }
}

fn shown(id: DatanetId, card: &Card) -> Value {
    json!({
        "id": id,
        "title": card.title,
        "description": card.description,
        "tags": card.tags,
        "languages": card.languages,
    })
}

pub(super) async fn show(State(api): Api, Path(id): Path<DatanetId>) -> Answer<Value> {
    Ok(Json(shown(id, &api.cards.show(id).await?)))
}

pub(super) async fn edit(State(api): Api, Path(id): Path<DatanetId>, Json(edit): Json<Edit>) -> Answer<Value> {
    edit.check()?;
    let (card, changed) = api.cards.edit(id, |card| edit.make(card)).await?;
    let mut document = shown(id, &card);
    document["changed"] = json!(changed);
    Ok(Json(document))
}

impl From<CardsError> for ApiError {
    fn from(error: CardsError) -> Self {
        match error {
            CardsError::Unknown(id) => datanets::unknown(&id),
            CardsError::NotEditor(_) => Self::usage(error, "its owners, and the members it was begun with, edit it"),
            CardsError::Full(_) | CardsError::Card(CardError::TooLarge { .. }) => {
                Self::usage(error, "shorten it; what was written before counts too, and the card is as it was")
            }
            CardsError::Stopped(stopped) => stopped.into(),
            CardsError::Card(_) | CardsError::Interrupted(_) => Self::internal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_have_codes_and_tags_are_words() {
        assert!(["en", "pt-BR", "zh-Hant-TW", "de-1996"].iter().all(|code| is_language(code)));
        assert!(["", "e", "en-", "xx-yy-zz-!!", "1a", "en_GB", "englishly-9"].iter().all(|code| !is_language(code)));
        assert!(is_tag("rivers") && is_tag("data-science") && !is_tag("Bad Tag!") && !is_tag("") && !is_tag("a\n"));
    }
}
