//! `tributary model verify`: a release held against its own adapters and records on this node.
//!
//! Invariant: what is exact (the index) must be equal; what is computed in floats and may come from a machine of another class
//! is held to a bound that rounding stays far below.

use serde_json::{Value, json};
use tributary_protocol::attribution::{NOISE_MICRO_NATS, Quality};

use crate::cli::failure::{Failure, VERIFICATION};
use crate::cli::output::{Context, Output};
use crate::cli::receipt::proof::JUDGE_PATIENCE;
use crate::cli::{quality, text};

/// How far an estimate may be from ours, in millionths of what it moves the adapter.
const ESTIMATE_BOUND: u64 = 300;
/// How far misallocation may be from ours, in parts of a million, and the noise, in micro-nats.
const QUALITY_BOUND: u32 = 2_000;

pub(super) async fn verify(context: &Context, release: &Value) -> Result<Output, Failure> {
    let id = text::field(&release["adapter"]);
    context.say("computing the model's index, estimates and quality again; this can take minutes");
    let path = format!("/api/releases/{id}/verify");
    let found = context.client.post_within(&path, &json!({}), JUDGE_PATIENCE).await?;
    Ok(shown(id, found))
}

fn shown(id: String, found: Value) -> Output {
    let parts = [
        ("index", Some(index(&found))),
        ("alike", Some(clusters(&found))),
        ("pools", pools(&found)),
        ("estimates", Some(estimates(&found))),
        ("quality", Some(qualities(&found))),
    ];
    let parts: Vec<_> = parts.into_iter().filter_map(|(name, part)| Some((name, part?))).collect();
    let lines: Vec<(&str, String)> = parts.iter().map(|(name, (_, told))| (*name, told.clone())).collect();
    let is_right = parts.iter().all(|(_, (is_right, _))| *is_right);
    let output = Output::new(found, vec![id], text::fields(&lines));
    match is_right {
        true => output.note("✓ the release says what its own adapters and records give"),
        false => {
            output.note("! the release says something else than its own adapters and records give").ending(VERIFICATION)
        }
    }
}

fn index(found: &Value) -> (bool, String) {
    match found["index"]["equal"] == true {
        true => (true, "equal: it is the one that the adapters make".into()),
        false => (false, format!("UNEQUAL: the adapters make {}", text::short(&found["index"]["own"]))),
    }
}

/// Who teaches the same; not looked at where the index is another one.
fn clusters(found: &Value) -> (bool, String) {
    if found["clusters"].is_null() {
        return (true, "not looked at".into());
    }
    let [theirs, own] = ["theirs", "own"].map(|whose| text::rows(&found["clusters"][whose]));
    let told = |clusters: &[Value]| match clusters {
        [] => "nobody teaches the same as another".to_owned(),
        some => {
            let members = some.iter().map(|members| text::rows(members).len()).sum::<usize>();
            format!("{members} contributors teach the same as another")
        }
    };
    match (theirs == own, theirs.iter().all(|members| own.contains(members))) {
        (true, _) => (true, format!("equal: {}", told(own))),
        // A look that took too long is given up, and near its bound machines differ.
        (false, true) => (true, format!("by the release {}; here {}", told(theirs), told(own))),
        (false, false) => (false, format!("UNEQUAL: by the release {}; here {}", told(theirs), told(own))),
    }
}

/// Who is left out together for having few records, where there are so many contributors. To leave somebody out alone tells
/// more, and is nothing false; who is pooled and must not be stands among those who teach the same.
fn pools(found: &Value) -> Option<(bool, String)> {
    let members =
        |whose: &str| text::rows(&found["pools"][whose]).iter().map(|members| text::rows(members).len()).sum::<usize>();
    let told = match (members("theirs"), members("own")) {
        (_, 0) => return None,
        (theirs, own) if theirs == own => format!("equal: {own} contributors have few records"),
        (theirs, own) => format!("{theirs} of {own} contributors with few records are left out together"),
    };
    Some((true, told))
}

fn estimates(found: &Value) -> (bool, String) {
    if found["estimates"].is_null() {
        return (true, "not looked at".into());
    }
    match found["estimates"]["worst_millionths"].as_u64() {
        None => (true, "none: an adapter was trained without each contributor".into()),
        Some(worst) if worst <= ESTIMATE_BOUND => {
            let many = text::counted(text::number(&found["estimates"]["count"]), "contributor");
            (true, format!("equal within rounding, for {many} not left out alone"))
        }
        Some(worst) => (false, format!("UNEQUAL: {} away from what the records give", text::percent(worst))),
    }
}

fn qualities(found: &Value) -> (bool, String) {
    let read =
        |of: &str| -> Option<Quality> { serde_json::from_value(found["quality"][of].clone()).unwrap_or_default() };
    let (theirs, own) = (read("theirs"), read("own"));
    let told = quality::brief(own);
    match (theirs, own) {
        (None, _) => (true, format!("the release claims none; here: {told}")),
        (Some(theirs), Some(own)) if is_near(theirs, own) => (true, format!("equal: {told}")),
        (Some(_), Some(_)) => (false, format!("UNEQUAL: the release claims {}; here: {told}", quality::brief(theirs))),
        (Some(_), None) => (false, "UNEQUAL: it could not be measured here".into()),
    }
}

fn is_near(theirs: Quality, own: Quality) -> bool {
    let noise_bound = (own.noise / 50).max(u32::try_from(NOISE_MICRO_NATS / 5).unwrap_or(u32::MAX));
    (theirs.answers, theirs.contributors) == (own.answers, own.contributors)
        && theirs.misallocated.abs_diff(own.misallocated) <= QUALITY_BOUND
        && theirs.noise.abs_diff(own.noise) <= noise_bound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(noise: u32, worst: Option<u64>, index: bool) -> Output {
        let quality = |noise| Quality { answers: 16, contributors: 2, misallocated: 1_000, correlation: None, noise };
        shown(
            "ab".into(),
            json!({
                "index": {"theirs": "ab", "own": "cd", "equal": index},
                "estimates": {"count": 1, "worst_millionths": worst},
                "quality": {"theirs": quality(noise), "own": quality(100_000)},
            }),
        )
    }

    #[test]
    fn pools_are_told_where_there_are_some_and_false_ones_are_clusters_that_nobody_finds() {
        assert_eq!(pools(&json!({})), None);
        assert_eq!(pools(&json!({"pools": {"theirs": [], "own": []}})), None);
        let told = |theirs: Value| pools(&json!({"pools": {"theirs": theirs, "own": [[0, 1], [2, 3, 4]]}}));
        assert_eq!(told(json!([[0, 1], [2, 3, 4]])), Some((true, "equal: 5 contributors have few records".into())));
        assert_eq!(told(json!([])), Some((true, "0 of 5 contributors with few records are left out together".into())));
        assert!(!clusters(&json!({"clusters": {"theirs": [[7, 8]], "own": []}})).0);
    }

    #[test]
    fn what_is_other_than_computed_here_is_said_and_ends_badly() {
        let right = found(101_000, Some(20), true);
        assert_eq!(right.code, 0, "{}", right.text);
        assert!(right.text.contains("equal within rounding, for 1 contributor not left out alone"), "{}", right.text);
        assert!(found(101_000, None, true).text.contains("none:"));
        for wrong in [found(200_000, None, true), found(100_000, Some(5_000), true), found(100_000, None, false)] {
            assert_eq!(wrong.code, VERIFICATION);
            assert!(wrong.text.contains("UNEQUAL"), "{}", wrong.text);
        }
    }
}
