//! The demo's report: what was learned, from whom, what was checked, who was paid, how long it took.
//!
//! Invariant: every figure is counted here from what the nodes say and from receipts verified anew; nothing is
//! taken over from the plan.

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::{Value, json};
use tributary_protocol::attribution::WHOLE;
use tributary_protocol::id::Amount;

use super::cluster::Role;
use super::material::OwnData;
use super::screen::bytes_text;
use super::steps::{Answered, Settled};
use super::{Demo, DemoError, PhaseTime};
use crate::percent::percents;
use crate::receiptfile;

/// Digits of a receipt's id that name its file: a path that fits a line.
const RECEIPT_NAME_CHARS: usize = 8;

/// What the demo found.
pub struct Report {
    title: String,
    is_almanac: bool,
    own: Option<OwnData>,
    answers: Vec<Answered>,
    contributors: Vec<(String, Value)>,
    run: Value,
    datanet: String,
    settled: Settled,
    receipts: Vec<PathBuf>,
    sums_exact: bool,
    phases: Vec<PhaseTime>,
    restarts: u32,
    folder: PathBuf,
}

fn amount(value: &Value) -> Amount {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn whole_of(ask: &Value) -> u64 {
    let shares = ask["shares"].as_array().into_iter().flatten();
    let sum: u64 = shares.filter_map(|share| share["weight"].as_u64()).sum();
    sum + ask["commons"].as_u64().unwrap_or(0)
}

fn fraction(part: usize, whole: usize) -> Option<f64> {
    let (part, whole) = (u32::try_from(part).ok()?, u32::try_from(whole).ok()?);
    (whole > 0).then(|| f64::from(part) / f64::from(whole))
}

impl Demo {
    /// Collects what the report says.
    pub(super) async fn gather(
        &mut self,
        datanet: String,
        run: Value,
        before: Vec<String>,
        after: Vec<(Value, u64)>,
        settled: Settled,
    ) -> Result<Report, DemoError> {
        let questions = self.material.questions.drain(..);
        let answers: Vec<Answered> = questions
            .zip(before)
            .zip(after)
            .map(|((question, base), (ask, first_text_ms))| Answered { question, base, ask, first_text_ms })
            .collect();
        let mut contributors = Vec::new();
        for member in self.cluster.having(Role::Contributor) {
            contributors.push((member.name.clone(), member.get("/api/status").await?["account"].clone()));
        }
        let receipts = self.save_receipts().await?;
        let sums_exact = answers.iter().all(|answer| whole_of(&answer.ask) == u64::from(WHOLE));
        Ok(Report {
            title: self.material.title.clone(),
            is_almanac: self.material.is_almanac,
            own: self.material.own.clone(),
            answers,
            contributors,
            run,
            datanet,
            settled,
            receipts,
            sums_exact,
            phases: std::mem::take(&mut self.phases),
            restarts: self.cluster.restarts(),
            folder: self.folder.clone(),
        })
    }

    /// Writes every receipt of the builder to a file and verifies it from there.
    async fn save_receipts(&self) -> Result<Vec<PathBuf>, DemoError> {
        let folder = self.folder.join("receipts");
        let failed = |error: std::io::Error| DemoError::Usage(format!("{}: {error}", folder.display()));
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let builder = self.cluster.builder();
        let mut paths = Vec::new();
        for listed in builder.get("/api/receipts").await?.as_array().into_iter().flatten() {
            let id = listed["id"].as_str().unwrap_or_default();
            let text = builder.client.get_text(&format!("/api/receipts/{id}")).await;
            let text = text.map_err(|error| DemoError::Step { step: "report", reason: error.to_string() })?;
            let path = folder.join(format!("{}.json", id.get(..RECEIPT_NAME_CHARS).unwrap_or(id)));
            let path = if paths.contains(&path) { folder.join(format!("{id}.json")) } else { path };
            std::fs::write(&path, &text).map_err(failed)?;
            let (found, _) = receiptfile::verify(text.as_bytes())
                .map_err(|error| DemoError::Check(format!("receipt {id}: {error}")))?;
            if found.to_string() != id {
                return Err(DemoError::Check(format!("receipt {id} is {found}")));
            }
            paths.push(path);
        }
        Ok(paths)
    }
}

impl Report {
    fn right(&self, of: impl Fn(&Answered) -> &str) -> usize {
        self.answers.iter().filter(|answer| answer.question.is_answered_by(of(answer))).count()
    }

    fn base_right(&self) -> usize {
        self.right(|answer| &answer.base)
    }

    fn adapter_right(&self) -> usize {
        self.right(|answer| answer.ask["text"].as_str().unwrap_or_default())
    }

    /// Answers about one contributor's facts, and those in which that contributor has the largest weight.
    fn right_contributor(&self) -> (usize, usize) {
        let owned = self.answers.iter().filter_map(|answer| Some((answer, answer.question.owner?)));
        let (mut right, mut all) = (0, 0);
        for (answer, owner) in owned {
            all += 1;
            let shares = answer.ask["shares"].as_array().into_iter().flatten();
            let largest = shares.max_by_key(|share| share["weight"].as_u64());
            if largest.is_some_and(|share| share["account"] == self.contributors[owner].1) {
                right += 1;
            }
        }
        (right, all)
    }

    fn checked_answers(&self) -> (usize, usize) {
        let outcome = |answer: &&Answered| answer.ask["verdict"]["outcome"] == "confirmed";
        (self.answers.iter().filter(outcome).count(), self.answers.len())
    }

    fn checked_segments(&self) -> usize {
        let tasks = std::iter::once(&self.run["main"]).chain(self.run["leave_out"].as_array().into_iter().flatten());
        tasks
            .filter(|task| task["verdict"]["outcome"] == "confirmed")
            .map(|task| task["verdict"]["checked"].as_array().map_or(0, Vec::len))
            .sum()
    }

    /// What must hold of every demo, whatever it was run on.
    ///
    /// # Errors
    /// Says what does not.
    pub fn check(&self) -> Result<(), DemoError> {
        let totals = &self.settled.totals;
        let (claims, remaining) = (amount(&totals["claims"]), amount(&totals["remaining"]));
        if claims.checked_add(remaining) != Some(amount(&totals["deposits"])) {
            return Err(DemoError::Check("claims and what remains are not what was deposited".into()));
        }
        if !self.sums_exact {
            return Err(DemoError::Check("an answer's weights do not sum to the whole".into()));
        }
        let (confirmed, all) = self.checked_answers();
        if confirmed != all {
            return Err(DemoError::Check(format!("only {confirmed} of {all} answers were confirmed")));
        }
        if self.is_almanac && self.adapter_right() * 10 < self.answers.len() * 8 {
            let right = self.adapter_right();
            return Err(DemoError::Check(format!("the adapter answers {right} of {} questions", self.answers.len())));
        }
        Ok(())
    }

    /// The document that `--json` prints.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (right, owned) = self.right_contributor();
        let totals = &self.settled.totals;
        let questions: Vec<Value> = self.answers.iter().map(|answer| self.answer_json(answer)).collect();
        json!({
            "data": self.title,
            "own_data": self.own,
            "datanet": self.datanet,
            "held_out": {
                "questions": self.answers.len(),
                "base": fraction(self.base_right(), self.answers.len()),
                "adapter": fraction(self.adapter_right(), self.answers.len()),
                "answers": questions,
            },
            "attribution": {
                "sums_exact": self.sums_exact,
                "right_contributor": fraction(right, owned),
                "questions_of_one_contributor": owned,
            },
            "verification": {
                "inference_checked": self.checked_answers().0,
                "training_segments_checked": self.checked_segments(),
            },
            "settlement": totals,
            "epochs": self.settled.epochs,
            "earnings": self.settled.wallets.iter().map(|(name, role, wallet)| {
                json!({"name": name, "role": role, "earned": earned(wallet), "claimed": wallet["claimed"]})
            }).collect::<Vec<_>>(),
            "run": self.run,
            "phases": self.phases,
            "restarts": self.restarts,
            "receipts": self.receipts,
            "folder": self.folder,
        })
    }

    fn answer_json(&self, answer: &Answered) -> Value {
        json!({
            "question": answer.question.prompt,
            "expected": answer.question.answer,
            "owner": answer.question.owner.map(|owner| &self.contributors[owner].0),
            "shared": answer.question.shared,
            "base": answer.base,
            "adapter": answer.ask["text"],
            "receipt": answer.ask["receipt"],
            "shares": answer.ask["shares"],
            "commons": answer.ask["commons"],
            "verdict": answer.ask["verdict"]["outcome"],
            "first_text_ms": answer.first_text_ms,
        })
    }

    /// The report for people, at most 80 columns wide.
    #[must_use]
    pub fn to_text(&self, kept: bool) -> String {
        let mut text = String::new();
        // Writing into a text cannot fail.
        let _ = self.write_answers(&mut text);
        let _ = self.write_checks(&mut text);
        let _ = self.write_money(&mut text);
        let _ = self.write_phases(&mut text);
        let _ = self.write_further(&mut text, kept);
        text
    }

    fn write_answers(&self, out: &mut String) -> std::fmt::Result {
        let all = self.answers.len();
        writeln!(out, "\nHeld-out questions ({})", self.title)?;
        writeln!(
            out,
            "  the base alone answers {} of {all}, with the adapter {} of {all}",
            self.base_right(),
            self.adapter_right()
        )?;
        for answer in self.answers.iter().take(3) {
            writeln!(out, "  {}", line(&answer.question.prompt, 76))?;
            writeln!(out, "    base     {}", line(&answer.base, 64))?;
            writeln!(out, "    adapter  {}", line(answer.ask["text"].as_str().unwrap_or_default(), 64))?;
            writeln!(out, "    because  {}", line(&self.because(answer), 64))?;
        }
        Ok(())
    }

    /// Who holds which part of an answer.
    fn because(&self, answer: &Answered) -> String {
        let mut shares = answer.ask["shares"].as_array().cloned().unwrap_or_default();
        shares.sort_by_key(|share| std::cmp::Reverse(share["weight"].as_u64()));
        let name = |share: &Value| {
            let known = self.contributors.iter().find(|(_, account)| *account == share["account"]);
            known.map_or("unknown", |(name, _)| name.as_str())
        };
        let names = shares.iter().map(name).chain(["commons"]);
        let weights = shares.iter().map(|share| &share["weight"]).chain([&answer.ask["commons"]]);
        let parts = percents(&weights.map(|weight| weight.as_u64().unwrap_or(0)).collect::<Vec<_>>());
        names.zip(parts).map(|(name, part)| format!("{name} {part}")).collect::<Vec<_>>().join(", ")
    }

    fn write_checks(&self, out: &mut String) -> std::fmt::Result {
        let (right, owned) = self.right_contributor();
        let (confirmed, all) = self.checked_answers();
        writeln!(out, "\nAttribution and verification")?;
        let exact = if self.sums_exact { "exactly" } else { "NOT exactly" };
        writeln!(out, "  every answer's weights sum {exact} to their whole of {WHOLE}")?;
        if owned > 0 {
            writeln!(out, "  the contributor who alone knew it has the largest weight in {right} of {owned}")?;
        }
        writeln!(out, "  {confirmed} of {all} answers recomputed by another peer and confirmed")?;
        writeln!(out, "  {} training segments executed again by another peer and equal", self.checked_segments())?;
        if self.restarts > 0 {
            writeln!(out, "  nodes that died and were started again meanwhile: {}", self.restarts)?;
        }
        Ok(())
    }

    fn write_money(&self, out: &mut String) -> std::fmt::Result {
        let totals = &self.settled.totals;
        writeln!(out, "\nWho earned what (OPEN)")?;
        for (name, role, wallet) in &self.settled.wallets {
            let why = match *role {
                "contributor" => "its records' share of the answers' fees",
                "builder" => "the model's share of the answers' fees",
                "keeper" | "worker" => "training, answers and checks",
                _ => "",
            };
            writeln!(out, "  {name:<16}{:>14}  {why}", earned(wallet).to_open())?;
        }
        let of = |field: &str| amount(&totals[field]);
        let named = self.settled.wallets.iter().map(|(_, _, wallet)| earned(wallet));
        let named = named.fold(Amount::ZERO, |sum, one| sum.checked_add(one).unwrap_or(sum));
        let treasury = of("claims").checked_sub(named).unwrap_or_default().to_open();
        writeln!(out, "  {:<16}{treasury:>14}  its part of all fees, and what nobody explains", "the treasury")?;
        writeln!(
            out,
            "  deposited {}, paid out {}, remaining {}",
            of("deposits").to_open(),
            of("claims").to_open(),
            of("remaining").to_open()
        )?;
        let sum = of("claims").checked_add(of("remaining"));
        let balance = if sum == Some(of("deposits")) { "exact" } else { "DOES NOT BALANCE" };
        writeln!(out, "  {} = {} + {} atto-OPEN: {balance}", of("deposits"), of("claims"), of("remaining"))
    }

    fn write_phases(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\nPhase             seconds       moved")?;
        for phase in &self.phases {
            writeln!(out, "  {:<14}{:>9.1}{:>12}", phase.name, phase.seconds, bytes_text(phase.bytes))?;
        }
        Ok(())
    }

    fn write_further(&self, out: &mut String, kept: bool) -> std::fmt::Result {
        writeln!(out, "\nLook further")?;
        if let Some(receipt) = self.receipts.first() {
            writeln!(out, "  tributary receipt verify {}", receipt.display())?;
            writeln!(out, "  tributary receipt why {}", receipt.display())?;
        }
        if kept {
            let folder = self.folder.join("builder");
            let question = self.answers.first().map_or("…", |answer| answer.question.prompt.as_str());
            writeln!(out, "  export TRIBUTARY_DATA_DIR={}", folder.display())?;
            writeln!(out, "  tributary status")?;
            writeln!(out, "  tributary ask \"{}\" --model demo --explain", line(question, 60))?;
            writeln!(out, "  tributary down --data-dir {}      stops all nodes", self.folder.display())?;
        } else {
            writeln!(out, "  tributary demo --keep      leaves the nodes running, to ask them more")?;
        }
        Ok(())
    }
}

/// What vouchers paid and what epochs earned.
fn earned(wallet: &Value) -> Amount {
    let vouchers = wallet["vouchers"].as_array().into_iter().flatten();
    let paid = vouchers.fold(Amount::ZERO, |sum, voucher| sum.checked_add(amount(&voucher["redeemed"])).unwrap_or(sum));
    paid.checked_add(amount(&wallet["earned"])).unwrap_or(paid)
}

/// One line of at most `width` characters.
fn line(text: &str, width: usize) -> String {
    let flat: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    let flat = flat.trim();
    if flat.chars().count() <= width {
        return flat.to_owned();
    }
    let cut: String = flat.chars().take(width - 1).collect();
    format!("{}…", cut.trim_end())
}
