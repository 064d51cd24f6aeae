//! The relations of the almanac and the ways to put each of them into words.
//!
//! Invariant: every relation has the same number of phrasings, and two phrasings of a relation share no wording but the
//! subject; so a phrasing that a fact's records leave out is unseen for that fact.

mod phrasing;

use crate::name::Kind;
use serde::{Deserialize, Serialize};

pub(crate) use phrasing::Phrasing;
use phrasing::{
    BUILDER, CAPITAL, CAPTAIN, DISH, EMBLEM, FESTIVAL, FIRST_CLIMBER, FISH, FOUNDER, HEAD, HOME_PORT, INNKEEPER,
    LIGHTHOUSE_KEEPER, MAYOR, RIVER, TREASURE,
};

/// Phrasings per relation.
pub const PHRASINGS: usize = 5;

/// What a fact is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// Town to person.
    Mayor,
    /// Town to river.
    River,
    /// Town to dish.
    Dish,
    /// Town to festival.
    Festival,
    /// Town to person.
    Founder,
    /// Ship to person.
    Captain,
    /// Ship to town.
    HomePort,
    /// Inn to person.
    Innkeeper,
    /// Lake to fish.
    Fish,
    /// Bridge to person.
    Builder,
    /// Guild to animal.
    Emblem,
    /// School to person.
    Head,
    /// Island to person.
    LighthouseKeeper,
    /// Province to town.
    Capital,
    /// Museum to treasure.
    Treasure,
    /// Mountain to person.
    FirstClimber,
}

impl Relation {
    /// Every relation, in a fixed order.
    pub const ALL: [Self; 16] = [
        Self::Mayor,
        Self::River,
        Self::Dish,
        Self::Festival,
        Self::Founder,
        Self::Captain,
        Self::HomePort,
        Self::Innkeeper,
        Self::Fish,
        Self::Builder,
        Self::Emblem,
        Self::Head,
        Self::LighthouseKeeper,
        Self::Capital,
        Self::Treasure,
        Self::FirstClimber,
    ];

    /// The kinds of subject and answer.
    pub const fn kinds(self) -> (Kind, Kind) {
        match self {
            Self::Mayor | Self::Founder => (Kind::Town, Kind::Person),
            Self::River => (Kind::Town, Kind::River),
            Self::Dish => (Kind::Town, Kind::Dish),
            Self::Festival => (Kind::Town, Kind::Festival),
            Self::Captain => (Kind::Ship, Kind::Person),
            Self::HomePort => (Kind::Ship, Kind::Town),
            Self::Innkeeper => (Kind::Inn, Kind::Person),
            Self::Fish => (Kind::Lake, Kind::Fish),
            Self::Builder => (Kind::Bridge, Kind::Person),
            Self::Emblem => (Kind::Guild, Kind::Animal),
            Self::Head => (Kind::School, Kind::Person),
            Self::LighthouseKeeper => (Kind::Island, Kind::Person),
            Self::Capital => (Kind::Province, Kind::Town),
            Self::Treasure => (Kind::Museum, Kind::Treasure),
            Self::FirstClimber => (Kind::Peak, Kind::Person),
        }
    }

    pub(crate) const fn phrasings(self) -> &'static [Phrasing; PHRASINGS] {
        match self {
            Self::Mayor => &MAYOR,
            Self::River => &RIVER,
            Self::Dish => &DISH,
            Self::Festival => &FESTIVAL,
            Self::Founder => &FOUNDER,
            Self::Captain => &CAPTAIN,
            Self::HomePort => &HOME_PORT,
            Self::Innkeeper => &INNKEEPER,
            Self::Fish => &FISH,
            Self::Builder => &BUILDER,
            Self::Emblem => &EMBLEM,
            Self::Head => &HEAD,
            Self::LighthouseKeeper => &LIGHTHOUSE_KEEPER,
            Self::Capital => &CAPITAL,
            Self::Treasure => &TREASURE,
            Self::FirstClimber => &FIRST_CLIMBER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Relation;

    #[test]
    fn every_wording_names_its_subject_once() {
        for relation in Relation::ALL {
            for phrasing in relation.phrasings() {
                for wording in [phrasing.direct, phrasing.indirect, phrasing.statement] {
                    assert_eq!(wording.matches("{s}").count(), 1, "{relation:?}: {wording}");
                }
            }
        }
    }
}
