//! How right a method of attribution was measured to be, in words.

use tributary_protocol::attribution::{Quality, WHOLE};

use super::text;

/// How right the method is on this model, in words.
pub(super) fn told(measured: Option<Quality>) -> String {
    let Some(Quality { answers, contributors, misallocated, correlation, noise }) = measured else {
        return "How right it is on this model has not been measured.".into();
    };
    let alike = correlation.map_or_else(String::new, |correlation| {
        let (sign, size) = (if correlation < 0 { "−" } else { "" }, correlation.unsigned_abs());
        format!(" (correlation {sign}{}.{:03})", size / WHOLE, size % WHOLE / 1_000)
    });
    format!(
        "How well that works on this model: its builder tested it on {} drawn by lot from the datanet. By the models really \
         trained without each of {}, on average {} of the contributors' part of a fee would have gone to somebody else{alike}. Another \
         training of the same model would have learned a little differently, so the first {} nats a token of everybody's \
         credit are taken for chance and not paid.",
        text::counted(answers.into(), "record"),
        text::counted(contributors.into(), "contributor"),
        part(misallocated),
        text::nats(&noise.into()),
    )
}

/// The same in a few.
pub(super) fn brief(measured: Option<Quality>) -> String {
    measured.map_or_else(
        || "not measured".into(),
        |Quality { answers, contributors, misallocated, .. }| {
            let (answers, trained) = (answers.into(), contributors.into());
            format!(
                "shares {} off, on {}, between {} really left out",
                part(misallocated),
                text::counted(answers, "record"),
                text::counted(trained, "contributor"),
            )
        },
    )
}

/// In percent; what would be rounded to nothing is told as less.
fn part(parts_per_million: u32) -> String {
    match parts_per_million {
        1..500 => "less than 0.1 %".into(),
        parts => text::percent(parts.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_of_a_method_is_told_and_so_is_that_nothing_was() {
        assert!(told(None).contains("not been measured"));
        let quality = |correlation| {
            Some(Quality { answers: 1, contributors: 2, misallocated: 21_000, correlation, noise: 120_000 })
        };
        let shown = told(quality(Some(-25_000)));
        assert!(shown.contains("1 record ") && shown.contains("2.1 %") && shown.contains("−0.025"), "{shown}");
        assert!(!told(quality(None)).contains("correlation"));
        assert_eq!(brief(quality(None)), "shares 2.1 % off, on 1 record, between 2 contributors really left out");
        assert_eq!((part(0), part(499), part(500)), ("0.0 %".into(), "less than 0.1 %".into(), "0.1 %".into()));
    }
}
