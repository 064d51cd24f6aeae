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

impl Edit {
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
