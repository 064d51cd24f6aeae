//! `tributary model`: base models and released adapters.

mod export;
mod pull;
mod verify;

use std::collections::BTreeMap;

use clap::Subcommand;
use serde_json::{Value, json};

use self::export::ExportArgs;
use self::pull::PullArgs;
use super::failure::{Failure, UNREACHABLE};
use super::output::{Context, Output};
use super::pick::{BASE, RELEASE};
use super::spend;
use super::table::Table;
use super::text;
use super::{amount, quality};
use crate::bases::BUILTIN;
use crate::work::pools::OWN_ROWS_MAX;

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Take a base model from a folder, a GGUF file or a hub; other peers fetch it from this node when they need it.
    Pull(Box<PullArgs>),
    /// List the base models of this node, and the released adapters with how many peers serve each.
    Ls,
    /// Show a base or a released adapter.
    Show {
        /// Its id, the beginning of it, or its name.
        model: String,
    },
    /// Hold a released adapter against its own files and records: make its attribution index again, estimate again what it
    /// estimates, and measure again how right its attribution is.
    Verify {
        /// Its id, the beginning of it, or its name.
        model: String,
    },
    /// Write a base, or an adapter with its base, for other programs; it is read again and compared before it counts.
    Export(ExportArgs),
    /// Remove a base from this node.
    Rm {
        /// Its id, the beginning of it, or its name.
        base: String,
    },
}

pub(super) async fn run(context: &Context, command: ModelCommand) -> Result<Output, Failure> {
    match command {
        ModelCommand::Pull(args) => pull::run(context, &args).await,
        ModelCommand::Ls => {
            let releases = context.client.get("/api/releases").await?;
            Ok(list(releases, context.client.get("/api/bases").await?))
        }
        ModelCommand::Show { model } => show(context, &model).await,
        ModelCommand::Verify { model } => {
            let releases = context.client.get("/api/releases").await?;
            verify::verify(context, choose(&releases, Some(&model))?).await
        }
        ModelCommand::Export(args) => export::run(context, &args).await,
        ModelCommand::Rm { base } => remove(context, &base).await,
    }
}

/// `0.5 B`, `360 M`: as people name models.
fn counted_short(parameters: u64) -> String {
    match parameters {
        0..1_000_000 => format!("{} k", parameters / 1_000),
        1_000_000..1_000_000_000 => format!("{}.{} M", parameters / 1_000_000, parameters / 100_000 % 10),
        _ => format!("{}.{} B", parameters / 1_000_000_000, parameters / 100_000_000 % 10),
    }
}

fn list(releases: Value, bases: Value) -> Output {
    let mut adapters = Table::new(&["MODEL", "NAME", "DATANET", "DATA BY", "FEE (OPEN)", "SERVED BY", "KEPT"]);
    for row in text::rows(&releases) {
        adapters.row([
            text::short(&row["adapter"]),
            text::field(&row["name"]),
            text::short(&row["datanet"]),
            text::rows(&row["contributors"]).len().to_string(),
            amount::brief(text::amount(&row["answer_fee"])),
            text::counted(text::number(&row["served_by"]), "peer"),
            row["kept_bytes"].as_u64().map_or_else(|| "-".into(), |bytes| text::size(bytes) + pin(row)),
        ]);
    }
    let mut table = Table::new(&["BASE", "NAME", "FAMILY", "PARAMS", "STORED", "SIZE", "LICENCE", "FROM"]);
    for row in text::rows(&bases) {
        table.row([
            text::short(&row["id"]),
            text::field(&row["name"]),
            text::field(&row["family"]),
            counted_short(text::number(&row["parameters"])),
            text::field(&row["stored"]),
            text::size(text::number(&row["bytes"])) + pin(row),
            row["licence"].as_str().map_or_else(|| "-".into(), text::line),
            text::field(&row["source"]),
        ]);
    }
    let parts: Vec<String> = [adapters.render(), table.render()].into_iter().filter(|part| !part.is_empty()).collect();
    let is_empty = text::rows(&releases).is_empty();
    let ids = [text::ids(&releases, "adapter"), text::ids(&bases, "id")].concat();
    let document = tagged("adapter", &releases).chain(tagged("base", &bases)).collect();
    let output = Output::new(document, ids, parts.join("\n"));
    if is_empty {
        return output
            .note("no adapter is released yet: there is nothing to ask")
            .next("tributary train start --budget OPEN");
    }
    output.next("tributary ask \"…\" --explain")
}

/// Marks what stays until its user removes it; the rest makes room for others.
fn pin(row: &Value) -> &'static str {
    if row["pinned"] == true { " pinned" } else { "" }
}

/// The rows of a list, each with what it is.
fn tagged<'rows>(kind: &'rows str, rows: &'rows Value) -> impl Iterator<Item = Value> + 'rows {
    text::rows(rows).iter().map(move |row| {
        let mut row = row.clone();
        row["kind"] = kind.into();
        row
    })
}

async fn show(context: &Context, model: &str) -> Result<Output, Failure> {
    let bases = context.client.get("/api/bases").await?;
    if let Ok(row) = BASE.find(&bases, model) {
        let id = text::field(&row["id"]);
        return Ok(show_base(context.client.get(&format!("/api/bases/{id}")).await?));
    }
    let releases = context.client.get("/api/releases").await?;
    Ok(show_release(choose(&releases, Some(model))?))
}

fn show_base(base: Value) -> Output {
    let id = text::field(&base["id"]);
    let or_dash = |value: &Value| value.as_str().map_or_else(|| "-".into(), text::line);
    let shown = text::fields(&[
        ("base", id.clone()),
        ("name", text::field(&base["name"])),
        ("from", text::field(&base["source"])),
        ("revision", or_dash(&base["revision"])),
        ("commit", or_dash(&base["commit"])),
        ("licence", or_dash(&base["licence"])),
        ("family", text::field(&base["family"])),
        ("parameters", text::grouped(text::number(&base["parameters"]))),
        ("stored", text::field(&base["stored"])),
        ("size", text::size(text::number(&base["bytes"]))),
        ("context", text::counted(text::number(&base["context"]), "token")),
        ("vocabulary", text::counted(text::number(&base["vocab"]), "token")),
        ("conversations", if base["chat"] == true { "yes" } else { "no" }.to_owned()),
        ("class", text::field(&base["class"])),
        ("adapters", text::rows(&base["adapters"]).len().to_string()),
    ]);
    Output::new(base, vec![id.clone()], shown)
        .next(format!("tributary train start --base {} --budget OPEN", &id[..id.len().min(10)]))
}

fn show_release(release: &Value) -> Output {
    let id = text::field(&release["adapter"]);
    let shown = text::fields(&[
        ("model", id.clone()),
        ("name", text::field(&release["name"])),
        ("base", text::field(&release["base"])),
        ("datanet", text::field(&release["datanet"])),
        ("contributors", contributors(release)),
        ("fee", format!("{} OPEN", amount::exact(text::amount(&release["answer_fee"])))),
        ("checked", checked(release)),
        ("attribution", quality::brief(serde_json::from_value(release["quality"].clone()).unwrap_or_default())),
        ("served by", text::counted(text::number(&release["served_by"]), "peer")),
    ]);
    let next = format!("tributary ask \"…\" --model {} --explain", text::field(&release["name"]));
    Output::new(release.clone(), vec![id], shown).next(next)
}

/// Whether other peers executed parts of its trainings again.
fn checked(release: &Value) -> String {
    match text::number(&release["unchecked"]) {
        0 => "every training, by other peers".into(),
        unchecked => format!("not so: nobody checked {}", text::counted(unchecked, "training")),
    }
}

/// How many there are, and for how many of them no leave-out adapter was trained.
fn contributors(release: &Value) -> String {
    let all = text::rows(&release["contributors"]);
    let estimated = all.iter().filter(|one| one["estimated"] == true).count();
    // A release does not say why; only where more are not estimated is anybody left out with others for having few records.
    let why = match all.len() - estimated > OWN_ROWS_MAX {
        true => "teach the same or have few records",
        false => "teach the same",
    };
    let estimated = match estimated {
        0 => String::new(),
        estimated => format!(", the attribution of {estimated} by estimates"),
    };
    let mut together: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for one in all.iter().filter(|one| one["together"].is_object()) {
        let first = text::number(&one["together"]["first"]);
        together.entry(first).or_default().push(text::short(&one["account"]));
    }
    let told = |members: &Vec<String>| format!("; {} {why} and were left out together", members.join(" and "));
    format!("{}{estimated}{}", all.len(), together.values().map(told).collect::<String>())
}

async fn remove(context: &Context, given: &str) -> Result<Output, Failure> {
    let known = context.client.get("/api/bases").await?;
    let row = match BASE.find(&known, given) {
        Ok(row) => row,
        Err(failure) => return Err(not_a_base(context, given).await?.unwrap_or(failure)),
    };
    let id = text::field(&row["id"]);
    let size = text::size(text::number(&row["bytes"]));
    let lines = [format!("remove base {} from this node, {size}", text::field(&row["name"]))];
    if let Some(end) = spend::preview(context, json!({"remove": id}), &lines, "Remove?")? {
        return Ok(end);
    }
    let removed = context.client.post(&format!("/api/bases/{id}/remove"), &json!({})).await?;
    Ok(Output::new(removed, vec![id], String::new())
        .note("✓ the base is removed, and its space is free")
        .next("tributary model ls"))
}

/// That an adapter is no base, if it is one: whoever removed it here would still hear of it from the others.
async fn not_a_base(context: &Context, given: &str) -> Result<Option<Failure>, Failure> {
    let releases = context.client.get("/api/releases").await?;
    let found = RELEASE.find(&releases, given).is_ok()
        || text::rows(&releases).iter().any(|row| row["name"].as_str() == Some(given));
    let reason =
        format!("{} is a released adapter, which belongs to the network; only bases are removed", text::line(given));
    let hint =
        "adapters of others make room by themselves beyond tributary up --disk-limit; tributary model ls shows bases";
    Ok(found.then(|| Failure::usage(reason, hint)))
}

/// The release a question is for: the one named, or the newest when all have one name.
pub(super) fn choose<'list>(releases: &'list Value, given: Option<&str>) -> Result<&'list Value, Failure> {
    let rows = text::rows(releases);
    if given == Some(BUILTIN) {
        let hint = "train a model on it: tributary data new, data add, then tributary train start --budget OPEN";
        return Err(Failure::usage("builtin is a base; questions go to released models", hint));
    }
    let Some(newest) = rows.last() else {
        let hint = "wait until one arrives, or make one: tributary data new NAME --licence SPDX, tributary data add FILE, \
                    tributary train start --budget OPEN";
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

    #[test]
    fn bases_stand_beside_adapters_and_each_row_says_what_it_is() {
        let bases = json!([{"id": "cd", "name": "Qwen/Qwen2-0.5B", "family": "qwen2", "parameters": 494_032_768_u64,
            "stored": "BF16", "bytes": 988_000_000_u64, "licence": "apache-2.0", "source": "hub:Qwen/Qwen2-0.5B"}]);
        let output = list(releases(&["a"]), bases);
        assert_eq!(output.ids, ["00000000", "cd"]);
        let kinds: Vec<_> = text::rows(&output.document).iter().map(|row| text::field(&row["kind"])).collect();
        assert_eq!(kinds, ["adapter", "base"]);
        assert!(output.text.contains("494.0 M") && output.text.contains("BF16"), "{}", output.text);
        assert!(list(json!([]), json!([])).text.is_empty());
    }

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
        assert_eq!(chosen(&[], Some("builtin")), Err(USAGE));
    }
}
