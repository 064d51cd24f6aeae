//! One contributor under several names.
//!
//! Invariant: the records and their order are the honest ones, so the deployed run is too; only who claims them changes.

use super::{Attack, Effect, Ground, Struck, newcomer, own};
use crate::study::StudyError;

/// Names in place of one.
const NAMES: usize = 4;

/// Splits the records among several names.
pub(super) struct Sybil;

impl Attack for Sybil {
    fn measures(&self) -> [&'static str; 2] {
        ["sybil", "sybil-admitted"]
    }

    fn strike(&self, ground: &Ground<'_>) -> Result<Struck, StudyError> {
        let mut dealt = ground.case.laboratory.dealt().clone();
        let attacker: Vec<u32> = ground.middling.first().copied().into_iter().collect();
        let mut names = attacker.clone();
        for who in &attacker {
            let records = own(&dealt, *who);
            names.extend((1..NAMES.min(records.len())).map(|_| newcomer(&mut dealt)));
            for (at, name) in records.into_iter().zip(names.iter().cycle()) {
                dealt.examples[at].contributor = *name;
            }
        }
        Ok(Struck { dealt, after: names, before: attacker, effect: Effect::Gain })
    }
}
