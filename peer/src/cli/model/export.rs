//! `tributary model export`: a model's files for other programs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::output::{Context, Output};
use super::super::pick::BASE;
use super::super::text;

/// The longest that writing, reading and comparing a base of the largest size may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3_600);

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArg {
    /// `adapter_config.json` and `adapter_model.safetensors`, as Python's peft reads them.
    Peft,
    /// Base and adapter as one model in Hugging Face's layout, in single precision.
    Merged,
    /// The same as one GGUF file in half precision, as llama.cpp reads it.
    Gguf,
}

impl FormatArg {
    const fn name(self) -> &'static str {
        match self {
            Self::Peft => "peft",
            Self::Merged => "merged",
            Self::Gguf => "gguf",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// A base or a released adapter: its id, the beginning of it, or its name.
    model: String,
    /// The files to write.
    #[arg(long, value_enum)]
    format: FormatArg,
    /// The folder to make, which must be empty or not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(super) async fn run(context: &Context, args: &ExportArgs) -> Result<Output, Failure> {
    let out = std::path::absolute(&args.out).map_err(|error| Failure::usage(error, "give a folder"))?;
    let given = out.to_str().ok_or_else(|| Failure::usage("the folder's name is not UTF-8", "choose another"))?;
    if std::fs::read_dir(&out).is_ok_and(|mut entries| entries.next().is_some()) || out.is_file() {
        return Err(Failure::usage(format!("{given} is not empty"), "choose another --out"));
    }
    let model = find(context, args).await?;
    let body = json!({"model": model, "format": args.format.name(), "out": given});
    if context.dry_run {
        let text = format!("write {} as {} to {given}\n", text::short(&model), args.format.name());
        let document = json!({"dry_run": true, "would": body});
        return Ok(Output::new(document, Vec::new(), text).note("this was a preview: nothing was done"));
    }
    context.say("writing the model, then reading it again to compare");
    let done = context.client.post_within("/api/models/export", &body, EXPORT_TIMEOUT).await?;
    Ok(exported(done, given))
}

/// The id of the base or adapter; PEFT's files are an adapter's, whatever else has its name.
async fn find(context: &Context, args: &ExportArgs) -> Result<Value, Failure> {
    let bases = context.client.get("/api/bases").await?;
    let base = BASE.find(&bases, &args.model).map(|row| row["id"].clone());
    let releases = context.client.get("/api/releases").await?;
    let adapter = super::choose(&releases, Some(&args.model)).map(|row| row["adapter"].clone());
    match (args.format, base, adapter) {
        (FormatArg::Peft, Ok(_), Err(_)) => {
            let reason = format!("{} is a base; PEFT's files are those of an adapter", text::line(&args.model));
            Err(Failure::usage(reason, "name a released adapter, or choose --format merged or gguf"))
        }
        (FormatArg::Peft, _, adapter) => adapter,
        (_, Ok(base), _) => Ok(base),
        (_, Err(_), adapter) => adapter,
    }
}

fn exported(done: Value, out: &str) -> Output {
    let rows = text::rows(&done["files"]);
    let line =
        |row: &Value| format!("{out}/{}  {}\n", text::field(&row["name"]), text::size(text::number(&row["bytes"])));
    let shown: String = rows.iter().map(line).collect();
    let worst = text::number(&done["worst_difference_millionths"]);
    let largest = text::number(&done["largest_logit_millionths"]);
    let note = format!(
        "✓ read again and compared at {}: logits up to {} differ by {} at most",
        text::counted(text::number(&done["positions_compared"]), "position"),
        text::nats(&json!(largest)),
        decimals(worst),
    );
    let ids = vec![out.to_owned()];
    Output::new(done, ids, shown).note(note)
}

/// Millionths as a number with six decimals.
fn decimals(millionths: u64) -> String {
    format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_says_by_how_much_it_differs() {
        let done = json!({
            "files": [{"name": "model.gguf", "bytes": 7_560_000}],
            "positions_compared": 48,
            "largest_logit_millionths": 5_100_000,
            "worst_difference_millionths": 1_250,
        });
        let output = exported(done, "/there");
        assert_eq!(output.text, "/there/model.gguf  7.5 MB\n");
        assert!(output.notes[0].contains("48 positions: logits up to 5.100 differ by 0.001250"), "{:?}", output.notes);
    }
}
