//! Exports in the engine: a model's files appear in their folder whole and compared, or not at all.

use std::path::{Path, PathBuf};

use tributary_compute::export::{Exported, Format, export};
use tributary_compute::lora::Adapter;
use tributary_protocol::id::Hash;

use super::context::JobContext;
use super::{Done, ExportAsk};
use crate::bundle;

fn text<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

pub(super) fn perform(context: &JobContext, ask: &ExportAsk) -> Result<Done, String> {
    let format = Format::from_name(&ask.format).ok_or_else(|| format!("there is no format {}", ask.format))?;
    let base = context.shelf.base(ask.base)?;
    let adapter = match ask.adapter.as_slice() {
        [] => None,
        bytes => {
            let files = bundle::adapter_from_bytes(bytes).map_err(text)?;
            Some(Adapter::from_files(base.config(), &files).map_err(text)?)
        }
    };
    let into = PathBuf::from(&ask.into);
    let partial = prepare(&into, context.job)?;
    let written = export(&base, Path::new(&ask.source), adapter.as_ref(), format, &partial).map_err(text);
    let finished = written.and_then(|written| finish(&partial, &into).map(|()| written));
    if finished.is_err()
        && let Err(error) = std::fs::remove_dir_all(&partial)
    {
        tracing::warn!(path = %partial.display(), %error, "a half-made export stays");
    }
    finished.map(|written| done(&written))
}

/// A fresh folder beside the wanted one, which must be empty or not there.
fn prepare(into: &Path, job: Hash) -> Result<PathBuf, String> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| format!("{path}: {error}")
    };
    match std::fs::read_dir(into).map(|mut entries| entries.next().is_none()) {
        Ok(false) => return Err(format!("{} is not empty", into.display())),
        Ok(true) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(into)(error)),
    }
    let (Some(above), Some(name)) = (into.parent(), into.file_name()) else {
        return Err(format!("{} is no folder that can be made", into.display()));
    };
    std::fs::create_dir_all(above).map_err(failed(above))?;
    let partial = above.join(format!(".{}.{}.partial", name.to_string_lossy(), job.short()));
    std::fs::create_dir(&partial).map_err(failed(&partial))?;
    Ok(partial)
}

/// An empty folder gives way to a renamed one, and one that somebody filled meanwhile does not.
fn finish(partial: &Path, into: &Path) -> Result<(), String> {
    let above = into.parent().unwrap_or(Path::new("."));
    let moved = std::fs::File::open(partial)
        .and_then(|folder| folder.sync_all())
        .and_then(|()| std::fs::rename(partial, into))
        .and_then(|()| std::fs::File::open(above)?.sync_all());
    moved.map_err(|error| format!("{}: {error}", into.display()))
}

/// Millionths of a logit; what is beyond all numbers was refused before.
fn millionths(value: f32) -> u64 {
    format!("{:.0}", f64::from(value) * 1e6).parse().unwrap_or(u64::MAX)
}

fn done(written: &Exported) -> Done {
    Done::Exported {
        files: written.files.clone(),
        worst_millionths: millionths(written.worst),
        largest_millionths: millionths(written.largest),
        positions: u32::try_from(written.positions).unwrap_or(u32::MAX),
    }
}
