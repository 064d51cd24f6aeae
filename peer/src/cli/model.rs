//! `tributary model`: released adapters.

use clap::Subcommand;
use serde_json::Value;

use super::amount;
use super::failure::{Failure, UNREACHABLE};
use super::output::{Context, Output};
use super::pick::RELEASE;
use super::table::Table;
use super::text;

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// List the released models and how many peers serve each.
    Ls,
}

pub(super) async fn run(context: &Context, command: ModelCommand) -> Result<Output, Failure> {
    match command {
        ModelCommand::Ls => Ok(list(context.client.get("/api/releases").await?)),
    }
}

fn list(releases: Value) -> Output {
    let mut table = Table::new(&["MODEL", "NAME", "DATANET", "CONTRIBUTORS", "FEE (OPEN)", "SERVED BY"]);
    for row in text::rows(&releases) {
        table.row([
            text::short(&row["adapter"]),
            text::field(&row["name"]),
            text::short(&row["datanet"]),
            text::rows(&row["contributors"]).len().to_string(),
            amount::brief(text::amount(&row["answer_fee"])),
            text::counted(text::number(&row["served_by"]), "peer"),
        ]);
    }
    let is_empty = text::rows(&releases).is_empty();
    let output = Output::new(releases.clone(), text::ids(&releases, "adapter"), table.render());
    if is_empty {
        return output.note("no model is released yet").next("tributary train start --budget OPEN");
    }
    output.next("tributary ask \"…\" --explain")
}

/// The release a question is for: the one named, or the newest when all have one name.
pub(super) fn choose<'list>(releases: &'list Value, given: Option<&str>) -> Result<&'list Value, Failure> {
    let rows = text::rows(releases);
    let Some(newest) = rows.last() else {
        let hint = "wait until one arrives, or make one: tributary train start --budget OPEN";
        return Err(Failure::new(UNREACHABLE, "no model is released in this network yet", hint));
    };
    match given {
        // Releases of one name are versions; the node lists them oldest first and means the newest.
        Some(given) => match rows.iter().rfind(|row| row["name"].as_str() == Some(given)) {
            Some(row) => Ok(row),
            None => RELEASE.find(releases, given),
        },
        None if rows.iter().all(|row| row["name"] == newest["name"]) => Ok(newest),
        None => {
            let mut names: Vec<String> = rows.iter().map(|row| text::field(&row["name"])).collect();
            names.sort();
            names.dedup();
            Err(Failure::usage(format!("there are several models: {}", names.join(", ")), "say which with --model"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::failure::USAGE;

    fn releases(names: &[&str]) -> Value {
        let row = |(number, name): (usize, &&str)| json!({"name": name, "adapter": format!("{number:08}")});
        names.iter().enumerate().map(row).collect()
    }

    fn chosen(names: &[&str], given: Option<&str>) -> Result<String, u8> {
        choose(&releases(names), given).map(|row| text::field(&row["adapter"])).map_err(|failure| failure.code)
    }

    #[test]
    fn one_name_needs_not_be_given_and_means_its_newest() {
        assert_eq!(chosen(&["a", "a"], None).unwrap(), "00000001");
        assert_eq!(chosen(&["a", "b", "a", "b"], Some("a")).unwrap(), "00000002");
        assert_eq!(chosen(&["a", "b"], Some("00000000")).unwrap(), "00000000");
    }

    #[test]
    fn several_names_or_none_are_explained() {
        assert_eq!(chosen(&["a", "b"], None), Err(USAGE));
        assert_eq!(chosen(&["a", "b"], Some("c")), Err(USAGE));
        assert_eq!(chosen(&[], None), Err(UNREACHABLE));
    }
}
