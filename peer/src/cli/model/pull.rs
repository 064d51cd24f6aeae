//! `tributary model pull`: a base from a folder, a GGUF file, or a hub.
//!
//! Invariant: what a hub calls `main` is recorded with the commit that it was; a model that is here at that commit is
//! not fetched again, and without a network it is found here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tributary_storage::base;

use super::super::failure::{FAILED, Failure, UNREACHABLE, USAGE, VERIFICATION};
use super::super::output::{Context, Output};
use super::super::text;
use crate::bases::FROM_HUB;
use crate::hub::{self, Hub, HubError, HubSource, Snapshot};

/// The longest that copying, hashing and loading a base of the largest size may take.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(3_600);
/// The longest card looked at for its licence.
const CARD_MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// A folder in Hugging Face's layout, a GGUF file, or a model of a hub as owner/name[@revision].
    source: String,
    /// What the base is called here.
    #[arg(long)]
    name: Option<String>,
    /// The GGUF file to take, where a model of a hub has several.
    #[arg(long, value_name = "NAME")]
    file: Option<String>,
    /// Another hub than HF_ENDPOINT, or Hugging Face's.
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Ask no hub: take what was pulled before, or what Hugging Face's programs have in their cache.
    #[arg(long, env = "HF_HUB_OFFLINE", action = clap::ArgAction::Set, value_parser = clap::builder::BoolishValueParser::new(), num_args = 0..=1,
          require_equals = true, default_value_t = false, default_missing_value = "true")]
    offline: bool,
    /// The most to fetch from a hub, such as 12GB; the node has a limit of its own.
    #[arg(long, value_name = "SIZE", default_value = "16GB", value_parser = super::super::start::size)]
    max_size: u64,
}

/// Where the model is, in the end: on this disk, or in the node already.
enum Found {
    Here(PathBuf, Value),
    Known(Value),
}

pub(super) async fn run(context: &Context, args: &PullArgs) -> Result<Output, Failure> {
    let path = Path::new(&args.source);
    if path.exists() {
        let local = std::path::absolute(path).map_err(|error| Failure::usage(error, "give a folder or a file"))?;
        return match context.dry_run {
            true => preview_local(&local),
            false => import(context, args, &local, local_origin(&local)).await,
        };
    }
    let Some(source) = HubSource::parse(&args.source) else {
        let reason = format!("{} is neither a folder, a file nor a model's name", text::line(&args.source));
        return Err(Failure::usage(reason, "give a path that exists, or owner/name[@revision]"));
    };
    from_hub(context, args, &source).await
}

fn local_origin(path: &Path) -> Value {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    let source = if path.is_dir() { "folder" } else { "gguf" };
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let name = stem.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    json!({"name": name, "source": source, "licence": licence_of(&folder.join("README.md"))})
}

/// The licence in the front matter of a model's card.
fn licence_of(card: &Path) -> Option<String> {
    let found = std::fs::metadata(card).ok().filter(|found| found.is_file() && found.len() <= CARD_MAX_BYTES);
    found?;
    let text = std::fs::read_to_string(card).ok()?;
    let mut lines = text.lines();
    if lines.next()?.trim() != "---" {
        return None;
    }
    let field = lines.take_while(|line| line.trim() != "---").find_map(|line| line.strip_prefix("license:"))?;
    let named = field.trim().trim_matches(['"', '\'']).to_owned();
    (!named.is_empty()).then_some(named)
}

fn preview_local(path: &Path) -> Result<Output, Failure> {
    let refused = |error: &dyn std::fmt::Display| Failure::usage(error, "give a folder of one model, or a GGUF file");
    let sources = base::sources(path).map_err(|error| refused(&error))?;
    let mut files = Vec::new();
    for source in &sources {
        let bytes = std::fs::metadata(&source.path).map_err(|error| refused(&error))?.len();
        files.push(json!({"name": source.name, "bytes": bytes}));
    }
    Ok(preview(&files, json!({"path": path})))
}

fn preview(files: &[Value], origin: Value) -> Output {
    let lines = files
        .iter()
        .map(|file| format!("{}  {}\n", text::field(&file["name"]), text::size(text::number(&file["bytes"]))));
    let text: String = lines.collect();
    let document = json!({"dry_run": true, "would": {"from": origin, "files": files}});
    Output::new(document, Vec::new(), text).note("this was a preview: nothing was done")
}

async fn import(context: &Context, args: &PullArgs, path: &Path, origin: Value) -> Result<Output, Failure> {
    let path = path.to_str().ok_or_else(|| Failure::usage("the path is not UTF-8", "rename it"))?;
    let mut body = origin;
    body["path"] = path.into();
    if let Some(name) = &args.name {
        body["name"] = name.as_str().into();
    }
    context.say("checking the model: its files are copied, hashed and loaded once");
    let record = context.client.post_within("/api/bases", &body, IMPORT_TIMEOUT).await?;
    Ok(pulled(record))
}

fn pulled(record: Value) -> Output {
    let id = text::field(&record["id"]);
    let said = format!(
        "✓ {}: {} of {} parameters in {}, {}",
        text::field(&record["name"]),
        text::field(&record["family"]),
        super::counted_short(text::number(&record["parameters"])),
        text::field(&record["stored"]),
        text::size(text::number(&record["bytes"])),
    );
    let next = format!("tributary train start --base {} --budget OPEN", text::short(&record["id"]));
    Output::new(record, vec![id.clone()], format!("{id}\n")).note(said).next(next)
}

async fn from_hub(context: &Context, args: &PullArgs, source: &HubSource) -> Result<Output, Failure> {
    let known = match context.client.get("/api/bases").await {
        Ok(known) => known,
        // A preview needs no node.
        Err(_) if context.dry_run => json!([]),
        Err(error) => return Err(error.into()),
    };
    let origin = format!("{FROM_HUB}{}", source.id());
    if args.offline {
        return offline(context, args, source, &known, &origin, None).await;
    }
    let hub = Hub::new(args.mirror.clone()).map_err(failure)?;
    let snapshot = match hub.resolve(source, args.file.as_deref()).await {
        Ok(snapshot) => snapshot,
        Err(error @ HubError::Unreachable { .. }) => {
            return offline(context, args, source, &known, &origin, Some(failure(error))).await;
        }
        Err(error) => return Err(failure(error)),
    };
    if context.dry_run {
        let files: Vec<Value> =
            snapshot.files.iter().map(|file| json!({"name": file.remote, "bytes": file.bytes})).collect();
        return Ok(preview(&files, json!({"hub": source.id(), "commit": snapshot.commit})));
    }
    let same = |row: &&Value| row["source"] == origin.as_str() && row["commit"] == snapshot.commit.as_str();
    if args.file.is_none()
        && let Some(row) = text::rows(&known).iter().find(same)
    {
        return Ok(pulled(row.clone()).note("it was here already, at this commit"));
    }
    let staged = fetch(context, args, &hub, source, &snapshot).await?;
    let body = json!({
        "name": source.id(),
        "source": origin,
        "revision": source.revision(),
        "commit": snapshot.commit,
        "licence": snapshot.licence,
    });
    let made = import(context, args, &staged.folder, body).await;
    // What is refused is fetched anew another time; what is only too large for the node's limit is not.
    if made.as_ref().err().is_none_or(|failure| failure.code == USAGE && !failure.hint.contains("--base-limit")) {
        staged.remove();
    }
    made
}

async fn fetch(
    context: &Context,
    args: &PullArgs,
    hub: &Hub,
    source: &HubSource,
    snapshot: &Snapshot,
) -> Result<crate::hub::Staged, Failure> {
    let total = snapshot.total_bytes();
    let commit: String = snapshot.commit.chars().take(10).collect();
    context.say(&format!("{} at commit {commit}: {}", source.id(), text::size(total)));
    let bar = bar(context, total);
    let mut shown = 0;
    let mut progress = |there: u64| {
        if there != shown {
            shown = there;
            bar.set_position(there);
        }
    };
    let root = context.data_dir.join("hub");
    let fetched = hub.fetch(source, snapshot, &root, args.max_size, &mut progress).await;
    bar.finish_and_clear();
    fetched.map_err(failure)
}

/// A bar on a terminal; nothing anywhere else.
fn bar(context: &Context, total: u64) -> ProgressBar {
    let target =
        if context.json || context.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    if let Ok(style) = ProgressStyle::with_template("  {bar:24} {bytes}/{total_bytes} · {bytes_per_sec} · {eta} left")
    {
        bar.set_style(style);
    }
    bar
}

/// What is on this machine of a model whose hub is not asked, or does not answer.
async fn offline(
    context: &Context,
    args: &PullArgs,
    source: &HubSource,
    known: &Value,
    origin: &str,
    silent: Option<Failure>,
) -> Result<Output, Failure> {
    let found = here(source, known, origin).ok_or_else(|| {
        silent.clone().unwrap_or_else(|| {
            let reason = format!("{source} was not pulled before, and no hub is asked");
            Failure::new(UNREACHABLE, reason, "pull it once without --offline")
        })
    })?;
    let note = match silent {
        Some(failure) => format!("! {}; this is what was pulled before", failure.message),
        None => "no hub was asked; this is what was pulled before".to_owned(),
    };
    match found {
        Found::Known(row) => Ok(pulled(row).note(note)),
        Found::Here(path, _) if context.dry_run => preview_local(&path),
        Found::Here(path, body) => Ok(import(context, args, &path, body).await?.note(note)),
    }
}

fn here(source: &HubSource, known: &Value, origin: &str) -> Option<Found> {
    let wanted = source.revision();
    let same = |row: &&Value| row["source"] == origin && (row["revision"] == wanted || row["commit"] == wanted);
    let newest = text::rows(known).iter().filter(same).max_by_key(|row| text::number(&row["added_ms"]));
    if let Some(row) = newest {
        return Some(Found::Known(row.clone()));
    }
    let (folder, commit) = hub::cached(source)?;
    let licence = licence_of(&folder.join("README.md"));
    let body = json!({
        "name": source.id(),
        "source": origin,
        "revision": wanted,
        "commit": commit,
        "licence": licence,
    });
    Some(Found::Here(folder, body))
}

fn failure(error: HubError) -> Failure {
    match &error {
        HubError::Unreachable { .. } => {
            Failure::new(UNREACHABLE, error, "run it again: what is here already is not fetched twice")
        }
        HubError::Refused { status: 401 | 403, .. } => {
            Failure::usage(error, "the model may need a token: set HF_TOKEN, and accept its licence on the hub's page")
        }
        HubError::Refused { .. } => Failure::usage(error, "check the model's name and revision"),
        HubError::NoModel(_) => Failure::usage(error, "choose a GGUF file with --file, or another model"),
        HubError::OverLimit { bytes, .. } => {
            let gigabytes = bytes.div_ceil(1_000_000_000);
            Failure::usage(error, &format!("raise --max-size to {gigabytes}GB, if the disk has room"))
        }
        HubError::Corrupt { .. } | HubError::Malformed(_) => {
            Failure::new(VERIFICATION, error, "try again, or another --mirror")
        }
        HubError::Busy => Failure::new(FAILED, error, "wait until it has ended"),
        HubError::Disk { .. } => {
            Failure::new(FAILED, error, "free some disk space, or see that the folder can be written")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_licence_is_what_the_front_matter_says() {
        let folder = tempfile::tempdir().unwrap();
        let card = folder.path().join("README.md");
        let licence = |text: &str| {
            std::fs::write(&card, text).unwrap();
            licence_of(&card)
        };
        assert_eq!(licence("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model").as_deref(), Some("apache-2.0"));
        assert_eq!(licence("---\ntags: []\n---\nlicense: mit"), None);
        assert_eq!(licence("# Model\nlicense: mit"), None);
        assert_eq!(licence(""), None);
        assert_eq!(licence_of(&folder.path().join("nothing")), None);
    }

    #[test]
    fn what_was_pulled_before_is_found_by_branch_and_by_commit() {
        let commit = "ab".repeat(20);
        let row = |id: &str, added: u64| json!({"id": id, "source": "hub:a/b", "revision": "main", "commit": commit, "added_ms": added});
        let known = json!([row("old", 1), row("new", 2), {"id": "x", "source": "hub:a/c", "revision": "main"}]);
        for (text, id) in [("a/b", "new"), (&format!("a/b@{commit}"), "new")] {
            let source = HubSource::parse(text).unwrap();
            assert!(matches!(here(&source, &known, "hub:a/b"), Some(Found::Known(row)) if row["id"] == id), "{text}");
        }
    }
}
