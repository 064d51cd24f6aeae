//! The demo's steps, each a few calls of the nodes' APIs that may be repeated.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tributary_protocol::id::{Amount, Hash};

use super::cluster::{Member, POLL, Role};
use super::material::Question;
use super::{Demo, DemoError};

/// What the builder is given to spend.
const ALLOWANCE: Amount = Amount(1_000 * Amount::OPEN.0);
/// What the training run may cost, leave-out runs included.
const BUDGET: Amount = Amount(200 * Amount::OPEN.0);
/// Segments of each training that another peer executes again.
const SEGMENTS: u16 = 2;
/// Tokens of an answer.
const ANSWER_TOKENS: u32 = 24;
/// How long a node may show nothing new before the demo gives up: a slow machine moves, a stuck one does not.
const STALLED: Duration = Duration::from_secs(180);
/// Of what a node showed last, the characters that an error quotes.
const SEEN_CHARS: usize = 400;
/// The longest the network may take to agree on something small, however much it moves meanwhile.
const SOON: Duration = Duration::from_secs(900);
/// The longest all trainings of the run may take; their deadline in the market is an hour too.
const TRAINING: Duration = Duration::from_secs(3_600);

/// One question with what base and network said.
pub(super) struct Answered {
    pub(super) question: Question,
    pub(super) base: String,
    pub(super) ask: Value,
    pub(super) first_text_ms: u64,
}

/// What was settled.
pub(super) struct Settled {
    pub(super) totals: Value,
    pub(super) epochs: Value,
    pub(super) wallets: Vec<(String, &'static str, Value)>,
}

fn key_of(what: &str) -> Hash {
    Hash::of(what.as_bytes())
}

fn count(value: &Value) -> usize {
    value.as_array().map_or(0, Vec::len)
}

fn amount(value: &Value) -> Amount {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// What the demo waits for, and where it would be seen.
struct Wait<'a> {
    step: &'static str,
    what: &'a str,
    member: &'a Member,
    path: &'a str,
    longest: Duration,
}

impl Wait<'_> {
    /// Looks until `ready` finds what it waits for, for as long as something moves.
    async fn until<T>(&self, ready: impl Fn(&Value) -> Option<T>) -> Result<T, DemoError> {
        let began = Instant::now();
        let (mut last, mut moved) = (Err(String::new()), began);
        loop {
            let seen = self.member.client.get(self.path).await.map_err(|error| error.to_string());
            if let Ok(value) = &seen
                && let Some(found) = ready(value)
            {
                return Ok(found);
            }
            if seen != last {
                (last, moved) = (seen, Instant::now());
            }
            if moved.elapsed() > STALLED || began.elapsed() > self.longest {
                let seen = last.map_or_else(|error| error, |value| value.to_string());
                let seen: String = seen.chars().take(SEEN_CHARS).collect();
                let waited = began.elapsed().as_secs();
                let reason = format!("{}: no {} after {waited} s, only: {seen}", self.member.name, self.what);
                return Err(DemoError::Step { step: self.step, reason });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Looks at `member` until `ready` finds something small that it waits for.
async fn until<T>(
    step: &'static str,
    what: &str,
    member: &Member,
    path: &str,
    ready: impl Fn(&Value) -> Option<T>,
) -> Result<T, DemoError> {
    Wait { step, what, member, path, longest: SOON }.until(ready).await
}

impl Demo {
    pub(super) async fn start(&mut self) -> Result<(), DemoError> {
        self.cluster.start().await?;
        let others = self.cluster.members().len() - 1;
        for member in self.cluster.members() {
            let met = |peers: &Value| (count(peers) >= others).then_some(());
            until("start", "meeting of all peers", member, "/api/peers", met).await?;
        }
        Ok(())
    }

    /// One datanet of all contributors' files; returns its id.
    pub(super) async fn share_data(&mut self) -> Result<String, DemoError> {
        let contributors = self.cluster.having(Role::Contributor);
        let id = self.create_datanet(contributors[0]).await?;
        let path = format!("/api/datanets/{id}");
        for (member, file) in contributors.iter().zip(&self.material.files) {
            until("data", "word of the datanet", member, &path, |_| Some(())).await?;
            let body = json!({"path": file});
            let added = member.post(&format!("{path}/records"), &body).await?;
            let bytes = added["bytes"].as_u64().unwrap_or(0);
            self.screen.say(&format!("  {} added {} records in a shard of {bytes} bytes", member.name, added["added"]));
        }
        self.write_card(contributors[0], &path).await?;
        let wanted = contributors.len();
        let heads = |seen: &Value| {
            // Its owner attests what came in, which is a new version; after that nothing moves any more.
            let whole = seen["complete"].as_bool() == Some(true)
                && count(&seen["contributors"]) == wanted
                && seen["attested"] == seen["additions"];
            whole.then(|| seen["head"].as_str().unwrap_or_default().to_owned())
        };
        let mut head = None;
        for member in self.cluster.members() {
            let seen = until("data", "whole datanet", member, &path, heads).await?;
            if head.get_or_insert_with(|| seen.clone()) != &seen {
                return Err(DemoError::Check("two nodes with the same entries have different heads".into()));
            }
        }
        Ok(id)
    }

    /// Gives the datanet a card and waits until every node has it.
    async fn write_card(&self, owner: &Member, datanet: &str) -> Result<(), DemoError> {
        let path = format!("{datanet}/card");
        let title = format!("{}, by its contributors", self.material.title);
        let card = json!({"title": title, "description": "What the demo's contributors know.", "languages": ["en"]});
        owner.post(&path, &card).await?;
        for member in self.cluster.members() {
            let written = |seen: &Value| (seen["title"] == title.as_str()).then_some(());
            until("data", "card of the datanet", member, datanet, written).await?;
        }
        Ok(())
    }

    async fn create_datanet(&self, member: &Member) -> Result<String, DemoError> {
        let name = self.material.title.clone();
        let mine = |list: &Value| {
            let found = list.as_array()?.iter().find(|datanet| datanet["name"].as_str() == Some(&name))?;
            found["id"].as_str().map(str::to_owned)
        };
        loop {
            if let Some(id) = mine(&member.get("/api/datanets").await?) {
                return Ok(id);
            }
            let body = json!({"name": self.material.title, "licence": self.material.licence});
            match member.client.post("/api/datanets", &body).await {
                Ok(_) => {}
                Err(error) if error.exit_code() == 2 => return Err(DemoError::Usage(error.to_string())),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Gives the builder something to spend and starts the run; returns its key.
    pub(super) async fn start_run(&mut self, datanet: &str) -> Result<String, DemoError> {
        self.fund_builder().await?;
        let key = key_of("demo run").to_string();
        let body = json!({
            "key": key,
            "name": "demo",
            "base": "builtin",
            "datanet": datanet,
            "recipe": self.material.recipe,
            "budget": BUDGET,
            "segments_checked": SEGMENTS,
            "attribution": true,
        });
        self.cluster.builder().post("/api/runs", &body).await?;
        Ok(key)
    }

    async fn fund_builder(&self) -> Result<(), DemoError> {
        let (keeper, builder) = (self.cluster.keeper(), self.cluster.builder());
        let address = builder.get("/api/wallet").await?["chain_address"].clone();
        loop {
            let wallet = builder.get("/api/wallet").await?;
            if wallet["chain_state"] == "up" && amount(&wallet["balance"]) >= ALLOWANCE {
                return Ok(());
            }
            if wallet["chain_state"] == "up" {
                let body = json!({"to": address, "amount": ALLOWANCE});
                // Whether it went through is seen in the balance.
                let _ = keeper.client.post("/api/wallet/send", &body).await;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn watch_run(
        &self,
        step: &'static str,
        key: &str,
        ended: impl Fn(&Value) -> bool,
        show: impl Fn(&Value),
    ) -> Result<Value, DemoError> {
        let path = format!("/api/runs/{key}");
        let look = |run: &Value| {
            show(run);
            (ended(run) || run["state"] == "failed").then(|| run.clone())
        };
        let member = self.cluster.builder();
        let run = Wait { step, what: "end of the run", member, path: &path, longest: TRAINING }.until(look).await?;
        if run["state"] == "failed" {
            let reason = run["reason"].as_str().unwrap_or("no reason is known").to_owned();
            return Err(DemoError::Step { step, reason });
        }
        Ok(run)
    }

    pub(super) async fn watch_main(&mut self, key: &str) -> Result<(), DemoError> {
        let show = |run: &Value| self.screen.task("training", &run["main"]);
        let run = self.watch_run("train", key, |run| run["main"]["phase"] == "done", show).await?;
        let main = &run["main"];
        let worker = self.name_of(&main["worker"]["node"]).await;
        let checked = count(&main["verdict"]["checked"]);
        self.screen.say(&format!(
            "  {worker} won ({} bids), trained {} steps; {checked} of {} segments redone: {}",
            main["bids"][0],
            main["result"]["steps"],
            main["result"]["checkpoints"].as_u64().unwrap_or(1) - 1,
            main["verdict"]["outcome"].as_str().unwrap_or("not checked"),
        ));
        Ok(())
    }

    pub(super) async fn watch_leave_outs(&mut self, key: &str) -> Result<Value, DemoError> {
        let show = |run: &Value| {
            let open = |task: &&Value| task["phase"] != "done";
            let tasks = run["leave_out"].as_array().map_or(&[][..], Vec::as_slice);
            let working = |task: &&Value| task["phase"] == "leased" || task["phase"] == "checking";
            let shown = tasks.iter().find(working).or_else(|| tasks.iter().find(open));
            let done = tasks.iter().filter(|task| !open(task)).count();
            if let Some(task) = shown {
                self.screen.task(&format!("leave-out {} of {}", done + 1, tasks.len()), task);
            }
        };
        let run = self.watch_run("attribute", key, |run| run["state"] == "done", show).await?;
        let workers = self.cluster.having(Role::Worker).len() + 1;
        let served = |list: &Value| {
            let served = list[0]["served_by"].as_u64()?;
            (usize::try_from(served).ok()? >= workers).then_some(())
        };
        until("attribute", "word that the workers serve the adapter", self.cluster.builder(), "/api/releases", served)
            .await?;
        Ok(run)
    }

    /// The name of a node of the demo.
    async fn name_of(&self, node: &Value) -> String {
        for member in self.cluster.members() {
            if member.client.notice().is_ok_and(|notice| node.as_str() == Some(&notice.node)) {
                return member.name.clone();
            }
        }
        "a worker".to_owned()
    }

    pub(super) async fn ask_base(&mut self) -> Result<Vec<String>, DemoError> {
        let mut answers = Vec::new();
        for question in &self.material.questions {
            let body = json!({"base": "builtin", "prompt": question.prompt, "max_tokens": ANSWER_TOKENS});
            let answer = self.cluster.builder().post("/api/base/generate", &body).await?;
            answers.push(answer["text"].as_str().unwrap_or_default().to_owned());
        }
        Ok(answers)
    }

    pub(super) async fn ask_adapter(&mut self, run: &Value) -> Result<Vec<(Value, u64)>, DemoError> {
        let all = self.material.questions.len();
        let mut answers = Vec::with_capacity(all);
        for (number, question) in self.material.questions.iter().enumerate() {
            answers.push(self.ask_one(run, number, question).await?);
            let of = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
            self.screen.progress("asking", of(number + 1), of(all), "answers");
        }
        for (answer, _) in &mut answers {
            let path = format!("/api/asks/{}", answer["key"].as_str().unwrap_or_default());
            let checked = |ask: &Value| (!ask["verdict"].is_null()).then(|| ask["verdict"].clone());
            answer["verdict"] = until("answer", "check of an answer", self.cluster.builder(), &path, checked).await?;
        }
        Ok(answers)
    }

    /// Asks until the answer's text is here; a payer that was killed with a paid answer shows it again by its key.
    async fn ask_one(&self, run: &Value, number: usize, question: &Question) -> Result<(Value, u64), DemoError> {
        let deadline = Instant::now() + SOON;
        let body = json!({
            "key": key_of(&format!("demo question {number}")),
            "model": run["adapter"],
            "prompt": question.prompt,
            "max_tokens": ANSWER_TOKENS,
            "check": true,
            "timeout_s": STALLED.as_secs(),
        });
        loop {
            let since = Instant::now();
            let mut first_text_ms = None;
            let shown = number == 0;
            if shown {
                self.screen.stream(&format!("  {}", question.prompt));
            }
            let mut on_line = |line: &Value| {
                if let Some(text) = line["text"].as_str() {
                    let waited = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                    first_text_ms.get_or_insert(waited);
                    if shown {
                        self.screen.stream(text);
                    }
                }
            };
            match self.cluster.builder().client.ask(&body, &mut on_line).await {
                Ok(done) => {
                    if shown {
                        self.screen.stream("\n");
                    }
                    return Ok((done, first_text_ms.unwrap_or(0)));
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(DemoError::Step { step: "answer", reason: error.to_string() });
                }
                Err(error) if error.exit_code() == 2 => return Err(DemoError::Usage(error.to_string())),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Redeems vouchers, anchors an epoch over all receipts, has everybody check it and claim.
    pub(super) async fn settle(&mut self) -> Result<Settled, DemoError> {
        let builder = self.cluster.builder();
        let receipts = count(&builder.get("/api/receipts").await?);
        let keeper = self.cluster.keeper();
        let all_here = |list: &Value| (count(list) >= receipts).then_some(());
        until("settle", "arrival of all receipts at the poster", keeper, "/api/receipts", all_here).await?;
        self.redeem_all().await?;
        keeper.post("/api/epochs/close", &json!({})).await?;
        let agreed = |list: &Value| {
            let epochs = list.as_array()?;
            let newest = epochs.last()?;
            (newest["agrees"] == true).then(|| list.clone())
        };
        let mut epochs = Value::Null;
        for member in self.cluster.members() {
            epochs = until("settle", "agreement with the anchored epoch", member, "/api/epochs", agreed).await?;
        }
        for member in self.cluster.members() {
            member.post("/api/wallet/claim", &json!({})).await?;
        }
        let mut wallets = Vec::new();
        for member in self.cluster.members() {
            let role = match member.role {
                Role::Keeper => "keeper",
                Role::Worker => "worker",
                Role::Contributor => "contributor",
                Role::Builder => "builder",
            };
            wallets.push((member.name.clone(), role, member.get("/api/wallet").await?));
        }
        Ok(Settled { totals: keeper.get("/api/chain/totals").await?, epochs, wallets })
    }

    /// Every worker gets the builder's newest voucher and redeems it.
    async fn redeem_all(&self) -> Result<(), DemoError> {
        let debts = self.cluster.builder().get("/api/wallet").await?;
        for member in self.cluster.members() {
            let account = member.get("/api/status").await?["account"].clone();
            let owed = debts["owed_to_others"].as_array().into_iter().flatten();
            let Some(owed) = owed.into_iter().find(|debt| debt["account"] == account) else { continue };
            let part = amount(&owed["worker_part"]);
            let covered = |wallet: &Value| {
                let mut vouchers = wallet["vouchers"].as_array()?.iter();
                vouchers.any(|voucher| amount(&voucher["cumulative"]) >= part).then_some(())
            };
            until("settle", "voucher of the builder", member, "/api/wallet", covered).await?;
            member.post("/api/wallet/redeem", &json!({})).await?;
        }
        Ok(())
    }
}
