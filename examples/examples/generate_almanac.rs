//! Writes an invented country to files: one JSONL file of records per contributor, and the held-out questions with
//! their answers and owners. The records are ready for `tributary data add`.
//!
//! `cargo run --release -p tributary-examples --example generate_almanac -- --out almanac --seed 1 --contributors 2`

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tributary_almanac::{Country, to_jsonl};
use tributary_examples::option;

fn main() -> Result<()> {
    let out: PathBuf = option("--out", PathBuf::from("almanac"))?;
    let country = Country::generate(option("--seed", 1_u64)?, option("--contributors", 2_usize)?);
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    for contributor in 0..country.contributors() {
        let records = country.records_of(contributor);
        let path = out.join(format!("contributor-{contributor}.jsonl"));
        std::fs::write(&path, to_jsonl(records)).with_context(|| path.display().to_string())?;
        println!("{}: {} records", path.display(), records.len());
    }
    let path = out.join("questions.jsonl");
    let mut lines = String::new();
    for question in country.questions() {
        lines += &serde_json::to_string(question)?;
        lines.push('\n');
    }
    std::fs::write(&path, lines).with_context(|| path.display().to_string())?;
    println!("{}: {} questions about {}", path.display(), country.questions().len(), country.name);
    Ok(())
}
