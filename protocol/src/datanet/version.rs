//! Versions of a datanet: naming them, finding them again, and when each entry of one was proven to be there.
//!
//! Invariant: everything here follows from the version's own entries and notes, so whoever holds a version dates its
//! entries alike, whatever else it knows.

use std::collections::BTreeMap;

use super::{Contribution, Datanet, Head, LogHead};
use crate::envelope::Signed;
use crate::id::{AccountId, Hash};
use crate::limits::{HEAD_CONTRIBUTORS_MAX, NOTARIES_MAX, NOTE_LOGS_MAX};
use crate::note::{Note, Opening, Says, length_of};

/// A log as far as a version has it.
type Part<'a, T> = &'a [(Hash, Signed<T>)];

/// The most notaries whose word is needed.
const QUORUM_MAX: usize = NOTARIES_MAX / 2 + 1;

/// When a majority of the notaries had seen something: when the last of those who are needed had, then when the one before
/// it had, and so on. A notary that was away for long sees much at once; the others' word then tells what was first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date([u64; QUORUM_MAX]);

impl Date {
    /// What one notary alone saw at `at_ms`.
    #[must_use]
    pub const fn of(at_ms: u64) -> Self {
        let mut times = [0; QUORUM_MAX];
        times[0] = at_ms;
        Self(times)
    }

    /// From when each notary saw it, if `quorum` of them did.
    fn agreed(mut seen: Vec<u64>, quorum: usize) -> Option<Self> {
        seen.sort_unstable();
        let needed = seen.get(..quorum)?;
        let mut times = [0; QUORUM_MAX];
        times.iter_mut().zip(needed.iter().rev()).for_each(|(time, at_ms)| *time = *at_ms);
        Some(Self(times))
    }

    /// When the majority was there, in milliseconds since 1970.
    #[must_use]
    pub const fn ms(&self) -> u64 {
        self.0[0]
    }
}

/// An entry of a version with what proves when it was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dated {
    /// The entry.
    pub entry: Signed<Contribution>,
    /// When the notaries had seen it.
    pub attested: Option<Date>,
    /// When they had seen a commitment to the root over records that the entry names.
    pub committed: Option<Date>,
}

impl Dated {
    /// An entry that nobody has attested.
    #[must_use]
    pub fn undated(entry: Signed<Contribution>) -> Self {
        Self { entry, attested: None, committed: None }
    }

    /// Since when its records are proven to be its contributor's. `records_root` is the true root over the ids of its
    /// shard's records: a commitment to others counts for nothing.
    #[must_use]
    pub fn proven(&self, records_root: &Hash) -> Option<Date> {
        let committed = self.committed.filter(|_| *records_root == self.entry.body.records_root);
        [self.attested, committed].into_iter().flatten().min()
    }
}

/// What a version holds.
struct Parts<'a> {
    logs: BTreeMap<AccountId, Part<'a, Contribution>>,
    notes: BTreeMap<AccountId, Part<'a, Note>>,
}

/// How far one notary had seen one log, and when: both rise.
type Steps = Vec<(u64, u64)>;

/// One notary's steps along each log.
type Sighting = BTreeMap<AccountId, Steps>;

/// Every notary's steps along each log.
type Sightings = BTreeMap<AccountId, Vec<Steps>>;

fn part<'a, T>(log: Part<'a, T>, wanted: &LogHead) -> Option<Part<'a, T>> {
    let part = log.get(..usize::try_from(wanted.length).ok()?)?;
    (part.last()?.0 == wanted.newest).then_some(part)
}

/// The head of a log that ends at `length`.
fn cut<T>(contributor: AccountId, log: Part<'_, T>, length: u64) -> Option<LogHead> {
    let (newest, _) = log.get(usize::try_from(length.checked_sub(1)?).ok()?)?;
    Some(LogHead { contributor, length, newest: *newest })
}

impl Datanet {
    /// The present version.
    #[must_use]
    pub fn head(&self) -> Head {
        let logs = self.logs.iter().filter_map(|(contributor, log)| cut(*contributor, log, length_of(log)));
        let notes = self.notes.iter().filter_map(|(account, log)| cut(*account, log.notes(), log.position().0));
        Head { datanet: self.id, logs: logs.take(HEAD_CONTRIBUTORS_MAX).collect(), notes: notes.collect() }
    }

    /// The present version without what comes after the first shard of each log that `holds` says is not here: one shard that
    /// nobody gives must not keep all other records from being trained.
    #[must_use]
    pub fn head_held(&self, holds: impl Fn(&Hash) -> bool) -> Head {
        let whole = self.head();
        let held = |(contributor, log): (&AccountId, &Vec<(Hash, Signed<Contribution>)>)| {
            let held = log.iter().take_while(|(_, entry)| holds(&entry.body.shard)).count();
            cut(*contributor, log, u64::try_from(held).ok()?)
        };
        let logs = self.logs.iter().filter_map(held).take(HEAD_CONTRIBUTORS_MAX).collect();
        Head { logs, ..whole }
    }

    /// The version of that id, whose logs had these lengths; `None` where some of it is not known here, or it is another one.
    #[must_use]
    pub fn head_of(
        &self,
        id: &Hash,
        logs: impl IntoIterator<Item = (AccountId, u64)>,
        notes: impl IntoIterator<Item = (AccountId, u64)>,
    ) -> Option<Head> {
        let log = |(account, length)| cut(account, self.logs.get(&account)?, length);
        let note = |(account, length)| cut(account, self.notes.get(&account)?.notes(), length);
        let logs = logs.into_iter().take(HEAD_CONTRIBUTORS_MAX).map(log).collect::<Option<_>>()?;
        let notes = notes.into_iter().take(NOTE_LOGS_MAX).map(note).collect::<Option<_>>()?;
        let head = Head { datanet: self.id, logs, notes };
        (head.id() == *id).then_some(head)
    }

    /// The entries of a version with their dates, by contributor and place, or `None` when this node lacks some of it.
    #[must_use]
    pub fn version(&self, head: &Head) -> Option<Vec<Dated>> {
        let parts = self.parts(head)?;
        let (logs, notes) = self.sightings(&parts);
        let mut dated = Vec::new();
        for (contributor, log) in &parts.logs {
            for (place, (_, entry)) in (0..).zip(*log) {
                let attested = self.agreed(logs.get(contributor), place);
                let note = entry.body.opening.and_then(|opening| committed(&parts, entry, &opening));
                let committed = note.and_then(|place| self.agreed(notes.get(contributor), place));
                dated.push(Dated { entry: entry.clone(), attested, committed });
            }
        }
        Some(dated)
    }

    /// When a majority of the notaries had seen `account`'s commitment at `place` of its notes, as far as is known here.
    #[must_use]
    pub fn commitment_date(&self, account: &AccountId, place: u64) -> Option<Date> {
        let (_, notes) = self.sightings(&self.parts(&self.head())?);
        self.agreed(notes.get(account), place)
    }

    fn parts(&self, head: &Head) -> Option<Parts<'_>> {
        let log = |wanted: &LogHead| Some((wanted.contributor, part(self.logs.get(&wanted.contributor)?, wanted)?));
        let notes = |wanted: &LogHead| {
            let log = self.notes.get(&wanted.contributor)?;
            Some((wanted.contributor, part(log.notes(), wanted)?))
        };
        Some(Parts {
            logs: head.logs.iter().map(log).collect::<Option<_>>()?,
            notes: head.notes.iter().map(notes).collect::<Option<_>>()?,
        })
    }

    /// What the notaries of a version say they saw of its own logs and notes.
    fn sightings(&self, parts: &Parts<'_>) -> (Sightings, Sightings) {
        let (mut logs, mut notes) = (Sightings::new(), Sightings::new());
        for notary in &self.genesis.body.notaries {
            let Some(own) = parts.notes.get(notary) else { continue };
            let (mut seen_logs, mut seen_notes) = (Sighting::new(), Sighting::new());
            for (place, (_, note)) in (1..).zip(*own) {
                let at_ms = note.body.at_ms;
                match &note.body.says {
                    // Nobody needs to tell a notary what it noted itself: its log is in the order in which it did.
                    Says::Commitment(_) => seen_notes.entry(*notary).or_default().push((place, at_ms)),
                    Says::Attestation(seen) => {
                        see(&mut seen_logs, &parts.logs, &seen.logs, at_ms);
                        see(&mut seen_notes, &parts.notes, &seen.notes, at_ms);
                    }
                }
            }
            seen_logs.into_iter().for_each(|(account, steps)| logs.entry(account).or_default().push(steps));
            seen_notes.into_iter().for_each(|(account, steps)| notes.entry(account).or_default().push(steps));
        }
        (logs, notes)
    }

    /// When a majority of the notaries had seen the entry at `place`.
    fn agreed(&self, sightings: Option<&Vec<Steps>>, place: u64) -> Option<Date> {
        let first = |steps: &Steps| {
            let (_, at_ms) = steps.get(steps.partition_point(|(length, _)| *length <= place))?;
            Some(*at_ms)
        };
        Date::agreed(sightings?.iter().filter_map(first).collect(), self.quorum())
    }
}

/// Takes those of the logs `seen` that are the version's own.
fn see<T>(steps: &mut Sighting, logs: &BTreeMap<AccountId, Part<'_, T>>, seen: &[LogHead], at_ms: u64) {
    for wanted in seen {
        if logs.get(&wanted.contributor).is_some_and(|log| part(log, wanted).is_some()) {
            steps.entry(wanted.contributor).or_default().push((wanted.length, at_ms));
        }
    }
}

/// The place of the commitment that `opening` opens, if it is one of this version to what the entry names.
fn committed(parts: &Parts<'_>, entry: &Signed<Contribution>, opening: &Opening) -> Option<u64> {
    let (_, note) = parts.notes.get(&entry.account)?.get(usize::try_from(opening.note).ok()?)?;
    let body = &entry.body;
    let opened = Opening::commitment(&body.datanet, &entry.account, &body.records_root, &opening.salt);
    (note.body.says == Says::Commitment(opened)).then_some(opening.note)
}
