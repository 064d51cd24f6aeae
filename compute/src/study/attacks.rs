//! What cheats gain: a deal is attacked, everything is trained again, and the product's own shares are compared.
//!
//! Invariant: an attack is a function of the honest deal, its run and a seed, and sees of the run only what anybody may ask; what
//! is paid before and after follows from the same method, scale and rule of shares, without admission and with the one that is
//! given, of which nothing is known here but what it admits.

mod copies;
mod outlier;
mod self_dealing;
mod sybil;

use tributary_protocol::attribution::{CreditScore, WHOLE, shares};
use tributary_protocol::id::{AccountId, ChainAddress};

use self::copies::{Copycat, Duplicate};
use self::outlier::Outlier;
use self::sybil::Sybil;
use super::StudyError;
use super::attributor::{Attributor, Case, Scores, all};
use super::bootstrap::{Figure, figure};
use super::deal::Dealt;
use super::laboratory::{Laboratory, OnTraining};
use super::table::OURS;
use crate::attribute::noise;

pub(super) use self::copies::reworded;
pub use self::self_dealing::self_dealing;

/// Seed of the intervals' draws.
const SEED: u64 = 2;
/// The methods that are attacked: ours, and the best of those that need no trainings.
const ATTACKED: [&str; 5] = ["equal split", "record count", "GradDot", "DataInf", OURS];

/// A way to be paid for more than one has taught.
pub trait Attack: Sync {
    /// Its measure in tables; with admission `-admitted` stands behind it.
    fn measures(&self) -> [&'static str; 2];

    /// What it makes of the honest deal.
    ///
    /// # Errors
    /// When the model can't be asked.
    fn strike(&self, ground: &Ground<'_>) -> Result<Struck, StudyError>;
}

/// What an attacker knows.
pub struct Ground<'a> {
    case: &'a Case<'a>,
    /// Contributors by how near to the middle of all their honest pay is: who is paid nothing has nothing to show.
    middling: Vec<u32>,
    seed: u64,
}

/// A deal after an attack.
pub struct Struck {
    dealt: Dealt,
    /// Whose pay together is compared, in this deal.
    after: Vec<u32>,
    /// And in the honest one.
    before: Vec<u32>,
    effect: Effect,
}

/// How pay is compared.
#[derive(Clone, Copy)]
enum Effect {
    /// The part beside an average other contributor, which is a half between equals: after less before.
    GainBeside,
    /// The share after, as a part of that before, less one.
    Gain,
    /// One less that part: what victims lose.
    Loss,
}

/// What one attack does to one method.
#[derive(Debug, Clone, PartialEq)]
pub struct Assault {
    /// Its measure.
    pub measure: &'static str,
    /// The method.
    pub method: &'static str,
    /// Trainings that the method took, beside the deployed one.
    pub trainings: usize,
    /// The effect.
    pub figure: Figure,
}

/// Every attack.
#[must_use]
pub fn attacks() -> Vec<Box<dyn Attack>> {
    vec![
        Box::new(Duplicate { times: 2, measures: ["duplicate-2", "duplicate-2-admitted"] }),
        Box::new(Duplicate { times: 4, measures: ["duplicate-4", "duplicate-4-admitted"] }),
        Box::new(Duplicate { times: 8, measures: ["duplicate-8", "duplicate-8-admitted"] }),
        Box::new(Copycat { reworded: false, measures: ["copycat", "copycat-admitted"] }),
        Box::new(Copycat { reworded: true, measures: ["paraphrase", "paraphrase-admitted"] }),
        Box::new(Sybil),
        Box::new(Outlier),
    ]
}

/// Places of the records that are admitted, ascending: the later ones were claimed later.
pub type Admission<'a> = &'a dyn Fn(&Dealt) -> Vec<usize>;

/// What every attack on the run of `seed` does to every method that is attacked, without admission and with it. `begun` hears
/// each measure before its trainings.
///
/// # Errors
/// When a training fails.
pub fn assail(
    honest: &Laboratory,
    seed: u64,
    admission: Admission<'_>,
    begun: &dyn Fn(&str),
    on_training: OnTraining<'_>,
) -> Result<Vec<Assault>, StudyError> {
    let mut found = world(honest, seed, None, begun, on_training)?;
    found.extend(world(honest, seed, Some(admission), begun, on_training)?);
    Ok(found)
}

/// All attacks, where all records are admitted or those that admission says.
fn world(
    honest: &Laboratory,
    seed: u64,
    admission: Option<Admission<'_>>,
    begun: &dyn Fn(&str),
    on_training: OnTraining<'_>,
) -> Result<Vec<Assault>, StudyError> {
    let admitted = |dealt: &Dealt| match admission {
        Some(admission) => kept(dealt, &admission(dealt)),
        None => dealt.clone(),
    };
    let honest = honest.with(&admitted(honest.dealt()))?;
    let case = Case::prepare(&honest, seed, on_training)?;
    let methods: Vec<_> = all().into_iter().filter(|method| ATTACKED.contains(&method.name())).collect();
    let payers = payers(&methods, &case)?;
    let ours = payers.iter().find(|payer| payer.method.name() == OURS);
    let ours = ours.ok_or_else(|| StudyError::Plan("our method is missing".into()))?;
    let ground = Ground { case: &case, middling: middling(&ours.before), seed };
    let mut found = Vec::new();
    for attack in attacks() {
        let measure = attack.measures()[usize::from(admission.is_some())];
        begun(measure);
        let struck = attack.strike(&ground)?;
        let struck = Struck { dealt: admitted(&struck.dealt), ..struck };
        found.extend(suffered(&honest, seed, &payers, (measure, &struck), on_training)?);
    }
    Ok(found)
}

fn suffered(
    honest: &Laboratory,
    seed: u64,
    payers: &[Payer<'_>],
    (measure, struck): (&'static str, &Struck),
    on_training: OnTraining<'_>,
) -> Result<Vec<Assault>, StudyError> {
    let laboratory = honest.with(&struck.dealt)?;
    let case = Case::prepare(&laboratory, seed, on_training)?;
    let mut found = Vec::new();
    for payer in payers {
        let after = paid(&payer.method.scores(&case)?, payer.scale, &struck.dealt)?;
        let trainings = payer.method.trainings(struck.dealt.contributors);
        let figure = struck.figure(&payer.before, &after);
        let assault = |figure| Assault { measure, method: payer.method.name(), trainings, figure };
        found.extend(figure.map(assault));
    }
    Ok(found)
}

impl Struck {
    fn figure(&self, before: &[Vec<f64>], after: &[Vec<f64>]) -> Option<Figure> {
        figure(SEED, [before.len().min(after.len()), 0], |places, _| {
            let before = total(before, places);
            let after = total(after, places);
            let part =
                |of: fn(&[f64], &[u32]) -> Option<f64>| Some((of(&before, &self.before)?, of(&after, &self.after)?));
            match self.effect {
                Effect::GainBeside => part(beside).map(|(before, after)| after - before),
                Effect::Gain => part(joint).and_then(|(before, after)| (before > 0.0).then(|| after / before - 1.0)),
                Effect::Loss => part(joint).and_then(|(before, after)| (before > 0.0).then(|| 1.0 - after / before)),
            }
        })
    }
}

/// What some get together.
fn joint(pay: &[f64], who: &[u32]) -> Option<f64> {
    who.iter().map(|who| pay.get(*who as usize).copied()).sum()
}

/// What they get as a part of that and an average other's.
fn beside(pay: &[f64], who: &[u32]) -> Option<f64> {
    let own = joint(pay, who)?;
    let others = pay.len().checked_sub(who.len()).filter(|others| *others > 0)?;
    let other = (pay.iter().sum::<f64>() - own) / others as f64;
    (own + other > 0.0).then(|| own / (own + other))
}

/// A method that pays.
struct Payer<'a> {
    method: &'a dyn Attributor,
    /// Nats of one unit of its scores.
    scale: f64,
    /// What it pays honest contributors: for each question, each one's part.
    before: Vec<Vec<f64>>,
}

/// All methods on the honest run. One without a unit is scaled so that it hands out as much credit there as ours does.
fn payers<'a>(methods: &'a [Box<dyn Attributor>], case: &Case<'_>) -> Result<Vec<Payer<'a>>, StudyError> {
    let dealt = case.laboratory.dealt();
    let scored: Vec<(&dyn Attributor, Scores)> =
        methods.iter().map(|method| Ok((&**method, method.scores(case)?))).collect::<Result<_, StudyError>>()?;
    let given = |scores: &Scores| -> f64 {
        let rows = scores.contributors.iter().flat_map(|scores| scores.iter());
        rows.flat_map(|row| &row[..dealt.queries.len()]).map(|score| f64::from(score.max(0.0))).sum()
    };
    let ours = scored.iter().find(|(method, _)| method.name() == OURS).map_or(0.0, |(_, scores)| given(scores));
    scored
        .into_iter()
        .map(|(method, scores)| {
            let own = given(&scores);
            let scale = if method.name() == OURS || own <= 0.0 { 1.0 } else { ours / own };
            Ok(Payer { method, scale, before: paid(&scores, scale, dealt)? })
        })
        .collect()
}

/// The product's shares of every question, as parts of its whole.
fn paid(scores: &Scores, scale: f64, dealt: &Dealt) -> Result<Vec<Vec<f64>>, StudyError> {
    let scores = scores.contributors.as_ref().ok_or_else(|| StudyError::Plan("no scores of contributors".into()))?;
    let account = |who: usize| {
        let mut account = [0; 32];
        account[..8].copy_from_slice(&(who as u64).to_be_bytes());
        AccountId(account)
    };
    #[expect(clippy::cast_possible_truncation, reason = "saturates, far beyond any loss")]
    let micro = |score: f64| (score * scale * 1e6).round() as i64;
    let queries = 0..dealt.queries.len();
    let own = |row: &[f32]| row[..dealt.queries.len()].iter().map(|score| micro(f64::from(*score))).collect();
    let noise = noise(scores.iter().map(own));
    let of = |query: usize| {
        let column = scores.column(query);
        let credit = |(who, score): (usize, &f64)| CreditScore {
            account: account(who),
            payout: ChainAddress([0; 20]),
            micro_nats: micro(*score),
        };
        let credits: Vec<CreditScore> = column.iter().enumerate().map(credit).collect();
        let mut parts = vec![0.0; column.len()];
        for share in shares(&credits, noise.into()) {
            if let Some(who) = (0..parts.len()).find(|who| account(*who) == share.account) {
                parts[who] = f64::from(share.weight) / f64::from(WHOLE);
            }
        }
        parts
    };
    Ok(queries.map(of).collect())
}

/// Each one's mean part over the questions at `places`.
fn total(paid: &[Vec<f64>], places: &[usize]) -> Vec<f64> {
    let mut sums = vec![0.0; paid.first().map_or(0, Vec::len)];
    for place in places {
        sums.iter_mut().zip(&paid[*place]).for_each(|(sum, part)| *sum += part / places.len() as f64);
    }
    sums
}

/// Contributors whose pay is the middle one first.
fn middling(paid: &[Vec<f64>]) -> Vec<u32> {
    let pay = total(paid, &(0..paid.len()).collect::<Vec<_>>());
    let mut order: Vec<usize> = (0..pay.len()).collect();
    order.sort_by(|a, b| pay[*a].total_cmp(&pay[*b]).then(a.cmp(b)));
    let middle = order.len() / 2;
    let mut ranked: Vec<(usize, usize)> = order.into_iter().enumerate().collect();
    ranked.sort_by_key(|(rank, _)| rank.abs_diff(middle));
    ranked.into_iter().filter_map(|(_, who)| u32::try_from(who).ok()).collect()
}

/// The deal with the records at these places alone.
fn kept(dealt: &Dealt, places: &[usize]) -> Dealt {
    Dealt {
        examples: places.iter().map(|at| dealt.examples[*at].clone()).collect(),
        flaws: places.iter().map(|at| dealt.flaws[*at]).collect(),
        topics: places.iter().map(|at| dealt.topics[*at]).collect(),
        ..dealt.clone()
    }
}

/// Places of a contributor's records.
fn own(dealt: &Dealt, who: u32) -> Vec<usize> {
    let is_own = |at: &usize| dealt.examples[*at].contributor == who;
    (0..dealt.examples.len()).filter(is_own).collect()
}

/// Adds the record at `at` once more, committed to after all others, in the name of `who`.
fn repeat(dealt: &mut Dealt, at: usize, who: u32) {
    dealt.examples.push(crate::train::Example { contributor: who, ..dealt.examples[at].clone() });
    dealt.flaws.push(dealt.flaws[at]);
    dealt.topics.push(dealt.topics[at]);
}

/// A name that nobody has yet.
fn newcomer(dealt: &mut Dealt) -> u32 {
    let who = u32::try_from(dealt.contributors).unwrap_or(u32::MAX);
    dealt.contributors += 1;
    who
}

#[cfg(test)]
mod tests {
    use super::{Effect, Struck, kept, middling, repeat};
    use crate::study::dataset::{Dataset, Item};
    use crate::study::deal::{Dealt, Setting, deal};

    pub(super) fn dealt() -> Dealt {
        let item = |at: u32| Item {
            prompt: format!("what is the number {at} called?"),
            completion: format!(" {}", at % 10),
            topic: Some(at % 10),
        };
        let dataset = Dataset {
            name: "numbers".into(),
            records: (0..80).map(item).collect(),
            queries: (100..110).map(item).collect(),
        };
        deal(&dataset, Setting::Alike, 8, 3).unwrap()
    }

    #[test]
    fn what_is_repeated_comes_last_and_can_be_kept_out() {
        let honest = dealt();
        let mut struck = honest.clone();
        (0..10).for_each(|at| repeat(&mut struck, at, 7));
        assert_eq!((struck.examples.len(), struck.examples[85].contributor), (90, 7));
        let cleaned = kept(&struck, &(0..80).collect::<Vec<_>>());
        assert_eq!((cleaned.examples, cleaned.topics, cleaned.flaws.len()), (honest.examples, honest.topics, 80));
    }

    #[test]
    fn gains_are_told_beside_an_average_other_or_as_parts() {
        let struck = |effect| Struck { dealt: dealt(), after: vec![0, 3], before: vec![0], effect };
        let (before, after) = (vec![vec![0.2, 0.2, 0.2]; 4], vec![vec![0.3, 0.1, 0.1, 0.1]; 4]);
        let of = |effect| struck(effect).figure(&before, &after).unwrap().value;
        assert!((of(Effect::GainBeside) - (0.4 / 0.5 - 0.5)).abs() < 1e-9);
        assert!((of(Effect::Gain) - 1.0).abs() < 1e-9);
        assert!((of(Effect::Loss) + 1.0).abs() < 1e-9);
        let nothing = vec![vec![0.0, 0.2, 0.2]; 4];
        assert_eq!(struck(Effect::Gain).figure(&nothing, &after), None);
    }

    #[test]
    fn who_is_paid_in_the_middle_comes_first() {
        assert_eq!(middling(&[vec![0.5, 0.1, 0.3, 0.0, 0.2]])[..3], [4, 1, 2]);
    }
}
