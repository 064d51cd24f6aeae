//! The engine process under its handle: batches, deaths, refusals. The base is the built-in one, without an adapter.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tributary_peer::engine::asking::AskFault;
use tributary_peer::engine::deadlines::Limits;
use tributary_peer::engine::parent::{EngineHandle, Options};
use tributary_peer::engine::{Ask, Done, EngineFolder, Reply};
use tributary_protocol::decoding::{Decoding, Format, Prompt};
use tributary_protocol::id::Hash;
use tributary_protocol::refusal::RefusalKind;

use super::support::{PATIENCE, folder};

const BEGINNING: &str = "The harbour of the old town";

struct Bench {
    engine: EngineHandle,
    base: Hash,
    _folder: tempfile::TempDir,
}

/// The files of the built-in base.
fn write_base(place: &Path) {
    let files = tributary_almanac::base();
    std::fs::create_dir(place).unwrap();
    for (name, bytes) in
        [("config.json", files.config), ("tokenizer.json", files.tokenizer), ("model.safetensors", files.safetensors)]
    {
        std::fs::write(place.join(name), bytes).unwrap();
    }
}

async fn bench() -> Bench {
    bench_within(Limits::default()).await
}

async fn bench_within(limits: Limits) -> Bench {
    bench_of(folder(), limits, |_| Path::new(env!("CARGO_BIN_EXE_tributary")).to_owned()).await
}

async fn bench_of(folder: tempfile::TempDir, limits: Limits, program: impl Fn(&Path) -> PathBuf) -> Bench {
    let program = program(folder.path());
    let shared = EngineFolder::at(&folder.path().join("engine"));
    let engine = EngineHandle::with(program, shared, Options { limits, ..Options::default() });
    let place = folder.path().join("base");
    write_base(&place);
    let base = Hash::of(b"the built-in base");
    engine.hold_base(base, &place).await.unwrap();
    Bench { engine, base, _folder: folder }
}

impl Bench {
    async fn ask(&self, number: u8, prompt: Prompt, decoding: Decoding) -> Receiver<Reply> {
        let job = Hash([number; 32]);
        let ask = Ask::Answer { job, base: self.base, adapter: None, prompt, passages: Vec::new(), decoding };
        self.engine.begin(job, &ask).await.unwrap()
    }

    /// The built-in base with a chat template.
    async fn talking(&self, template: &str) -> Hash {
        let base = Hash::of(template.as_bytes());
        let place = self._folder.path().join(base.to_string());
        write_base(&place);
        let told = serde_json::json!({"chat_template": template}).to_string();
        std::fs::write(place.join("tokenizer_config.json"), told).unwrap();
        self.engine.hold_base(base, &place).await.unwrap();
        base
    }

    async fn chat(&self, number: u8, base: Hash) -> Done {
        let conversation = r#"{"messages": [{"role": "user", "content": "The harbour"}]}"#.into();
        let (job, prompt) = (Hash([number; 32]), Prompt::Chat { conversation, at_s: 0 });
        let ask = Ask::Answer { job, base, adapter: None, prompt, passages: Vec::new(), decoding: drawn(number) };
        self.engine.ask(job, &ask).await.unwrap()
    }

    async fn outcome(&self, prompt: Prompt, decoding: Decoding) -> Done {
        heard(&mut self.ask(200, prompt, decoding).await).await.1.unwrap()
    }
}

fn drawn(number: u8) -> Decoding {
    Decoding { max_tokens: 60, temperature_milli: 900, seed: u64::from(number), ..Decoding::default() }
}

async fn next(replies: &mut Receiver<Reply>) -> Reply {
    let next = tokio::time::timeout(PATIENCE, replies.recv()).await;
    next.expect("the engine goes on").expect("a job ends with its outcome")
}

/// The pieces joined, and the outcome.
async fn heard(replies: &mut Receiver<Reply>) -> (String, Result<Done, String>) {
    let mut text = String::new();
    loop {
        match next(replies).await {
            Reply::Text { text: piece, .. } => text.push_str(&piece),
            Reply::Done { outcome, .. } => return (text, Ok(outcome)),
            Reply::Failed { reason, .. } => return (text, Err(reason)),
            other => panic!("{other:?}"),
        }
    }
}

fn signal(signal: &str, pid: u32) {
    let sent = std::process::Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

fn text_of(done: Done) -> String {
    match done {
        Done::Answered { text, .. } => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_loses_no_answer_and_repeats_no_word() {
    let bench = bench().await;
    let mut expected = Vec::new();
    for number in 0..6 {
        expected.push(text_of(bench.outcome(BEGINNING.into(), drawn(number)).await));
    }
    let mut all = Vec::new();
    for number in 0..6 {
        all.push(bench.ask(number, BEGINNING.into(), drawn(number)).await);
    }
    // All are computed together; the process dies in the middle of them.
    let Reply::Text { text: first, .. } = next(&mut all[0]).await else { panic!("an answer begins with text") };
    let dead = bench.engine.pid();
    signal("-9", dead);
    for (number, replies) in all.iter_mut().enumerate() {
        let (pieces, outcome) = heard(replies).await;
        let pieces = if number == 0 { first.clone() + &pieces } else { pieces };
        assert_eq!(pieces, expected[number], "answer {number}");
        assert_eq!(text_of(outcome.unwrap()), pieces);
    }
    assert!(bench.engine.pid() != dead && bench.engine.pid() != 0, "another process computed the rest");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_cannot_live_fails_its_answers_with_a_reason() {
    let folder = folder();
    // A file where the folder should be: the process ends at once, each time.
    let blocked = folder.path().join("engine");
    std::fs::write(&blocked, "").unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_tributary")).to_owned();
    let engine = EngineHandle::new(program, EngineFolder::at(&blocked));
    let job = Hash([1; 32]);
    let ask = Ask::Answer {
        job,
        base: job,
        adapter: None,
        prompt: BEGINNING.into(),
        passages: Vec::new(),
        decoding: Decoding::default(),
    };
    let mut replies = engine.begin(job, &ask).await.unwrap();
    let reason = heard(&mut replies).await.1.unwrap_err();
    assert!(reason.contains("ended each time"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_refused_with_its_kind() {
    let bench = bench().await;
    let two = r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}"#;
    let cases = [
        (Prompt::Text("river ".repeat(5_000)), Decoding::default(), RefusalKind::TooLong),
        (Prompt::Chat { conversation: two.into(), at_s: 0 }, Decoding::default(), RefusalKind::Invalid),
        (Prompt::Chat { conversation: "[".into(), at_s: 0 }, Decoding::default(), RefusalKind::Invalid),
        (BEGINNING.into(), Decoding { max_tokens: 0, ..Decoding::default() }, RefusalKind::Invalid),
        (
            BEGINNING.into(),
            Decoding { format: Format::JsonSchema("{".into()), ..Decoding::default() },
            RefusalKind::Invalid,
        ),
    ];
    for (prompt, decoding, kind) in cases {
        let outcome = bench.outcome(prompt.clone(), decoding).await;
        assert!(matches!(outcome, Done::Refused { kind: code, .. } if code == kind.code()), "{outcome:?}");
    }
    let one = r#"{"messages": [{"role": "user", "content": "The harbour of the old town"}]}"#;
    let chat = bench.outcome(Prompt::Chat { conversation: one.into(), at_s: 0 }, Decoding::default()).await;
    assert_eq!(text_of(chat), text_of(bench.outcome(BEGINNING.into(), Decoding::default()).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_text_ends_an_answer_and_is_no_part_of_it() {
    let bench = bench().await;
    let decoding = Decoding { max_tokens: 40, ..Decoding::default() };
    let whole = text_of(bench.outcome(BEGINNING.into(), decoding.clone()).await);
    let stop: String = whole.chars().skip(6).take(3).collect();
    let cut = text_of(bench.outcome(BEGINNING.into(), Decoding { stop: vec![stop.clone()], ..decoding }).await);
    assert_eq!(Some(cut.as_str()), whole.split(&stop).next());
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_have_length_one_and_tell_texts_apart() {
    let bench = bench().await;
    let job = Hash([9; 32]);
    let inputs = vec!["a harbour".to_owned(), "a mountain pass".to_owned(), "a harbour".to_owned()];
    let ask = Ask::Embed { job, base: bench.base, adapter: None, inputs };
    let outcome = heard(&mut bench.engine.begin(job, &ask).await.unwrap()).await.1.unwrap();
    let Done::Embedded { vectors, tokens } = outcome else { panic!("{outcome:?}") };
    assert!(vectors.len() == 3 && tokens > 3);
    assert_eq!(vectors[0], vectors[2]);
    assert_ne!(vectors[0], vectors[1]);
    for vector in vectors {
        let length: f32 = vector.iter().map(|value| value * value).sum();
        assert!((length - 1.0).abs() < 1e-4, "{length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_answer_frees_its_place() {
    let bench = bench().await;
    let mut replies = bench.ask(1, BEGINNING.into(), Decoding { max_tokens: 8_000, ..drawn(1) }).await;
    assert!(matches!(next(&mut replies).await, Reply::Text { .. }));
    bench.engine.stop(Hash([1; 32])).await;
    let rest = async { while replies.recv().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(30), rest).await.expect("nothing more comes");
    text_of(bench.outcome(BEGINNING.into(), Decoding::default()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_still_answers_after_hundreds_of_others_were_told_and_refused() {
    let bench = bench().await;
    for number in 0..300_u32 {
        let id = Hash::of(&number.to_le_bytes());
        bench.engine.hold_base(id, Path::new("/nowhere")).await.unwrap();
        if number % 100 == 99 {
            let ask = Ask::Inspect { job: id, base: id };
            heard(&mut bench.engine.begin(id, &ask).await.unwrap()).await.1.unwrap_err();
            bench.engine.forget_base(id).await;
            let reason = heard(&mut bench.engine.begin(id, &ask).await.unwrap()).await.1.unwrap_err();
            assert!(reason.contains("not known"), "{reason}");
        }
    }
    text_of(bench.outcome(BEGINNING.into(), Decoding::default()).await);
}

/// An answer that takes long.
fn long(number: u8) -> Decoding {
    Decoding { max_tokens: 8_000, ..drawn(number) }
}

/// An answer in the middle of which the engine's process was stopped, with its number. One that ended before is asked
/// for again: how fast a machine is says nothing here.
async fn cut_off(bench: &Bench) -> (u8, Receiver<Reply>) {
    for number in 1..20 {
        let mut replies = bench.ask(number, BEGINNING.into(), long(number)).await;
        assert!(matches!(next(&mut replies).await, Reply::Text { .. }));
        signal("-STOP", bench.engine.pid());
        let (mut is_over, quiet) = (false, Duration::from_millis(500));
        while let Ok(Some(reply)) = tokio::time::timeout(quiet, replies.recv()).await {
            is_over |= !matches!(reply, Reply::Text { .. });
        }
        if !is_over {
            return (number, replies);
        }
        signal("-CONT", bench.engine.pid());
    }
    panic!("every answer ended before the engine was stopped");
}

/// The engine, which begins to hang at its second start and is well again at the third.
fn hanging_once(folder: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let (script, starts) = (folder.join("engine.sh"), folder.join("starts"));
    let (marks, program) = (starts.display(), env!("CARGO_BIN_EXE_tributary"));
    let text = format!(
        "#!/bin/sh\necho >> '{marks}'\n[ \"$(wc -l < '{marks}')\" -eq 2 ] && exec sleep 600\nexec '{program}' \"$@\"\n"
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it comes to that");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_hangs_after_a_death_is_given_up_and_the_others_are_answered() {
    let limits = Limits { suspect: Duration::from_secs(2), ..Limits::default() };
    let bench = bench_of(folder(), limits, hanging_once).await;
    let (_, mut hanging) = cut_off(&bench).await;
    let dead = bench.engine.pid();
    signal("-9", dead);
    until(|| bench.engine.pid() != dead && bench.engine.pid() != 0).await;
    let mut behind = bench.ask(100, BEGINNING.into(), Decoding::default()).await;
    let reason = heard(&mut hanging).await.1.unwrap_err();
    assert!(reason.contains("in time"), "{reason}");
    text_of(heard(&mut behind).await.1.unwrap());
    assert_eq!(bench.engine.deaths(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_stopped_when_nobody_waits_for_it_or_its_time_is_over() {
    // No answer is that fast.
    let bench = bench_within(Limits { answer: Duration::from_millis(1), ..Limits::default() }).await;
    let job = Hash([1; 32]);
    let ask = |job| Ask::Answer {
        job,
        base: bench.base,
        adapter: None,
        prompt: BEGINNING.into(),
        passages: Vec::new(),
        decoding: long(1),
    };
    let fault = bench.engine.ask(job, &ask(job)).await.unwrap_err();
    assert!(matches!(fault, AskFault::Late(_)), "{fault}");
    let (engine, job) = (bench.engine.clone(), Hash([2; 32]));
    let asked = ask(job);
    let abandoned = tokio::spawn(async move { engine.ask(job, &asked).await });
    abandoned.abort();
    assert!(abandoned.await.unwrap_err().is_cancelled());
    // Stopped before it began or after: another with its number is not taken for it.
    text_of(bench.outcome(BEGINNING.into(), Decoding::default()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_is_looked_at_again_when_the_engine_dies_meanwhile_and_never_blamed_for_it() {
    let bench = bench().await;
    let dead = bench.engine.pid();
    signal("-STOP", dead);
    let (engine, base) = (bench.engine.clone(), bench.base);
    let looked = tokio::spawn(async move { engine.inspect(base).await });
    signal("-9", dead);
    let facts = looked.await.unwrap().expect("the next process loads it");
    assert!(facts.parameters > 0);
    let none = Hash([7; 32]);
    assert!(matches!(bench.engine.inspect(none).await, Err(AskFault::Failed(_))), "a living engine says so");
    let blocked = bench._folder.path().join("blocked");
    std::fs::write(&blocked, "").unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_tributary")).to_owned();
    let engine = EngineHandle::new(program, EngineFolder::at(&blocked));
    let fault = engine.inspect(none).await.unwrap_err();
    assert!(matches!(fault, AskFault::Died(_) | AskFault::Engine(_)), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_templates_end_their_own_process_and_nothing_else() {
    let bench = bench().await;
    let doubled = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}x";
    // minijinja joins constants while it reads them.
    let constant = format!("{{% set a = {} %}}x", ["('x' * 99999999)"; 60].join(" ~ "));
    let lists =
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x|list + ns.x|list %}{% endfor %}x";
    let mut long = bench.ask(1, BEGINNING.into(), long(1)).await;
    assert!(matches!(next(&mut long).await, Reply::Text { .. }));
    let pid = bench.engine.pid();
    let good = bench.talking("{% for m in messages %}{{ m.content }} of the old town{% endfor %}").await;
    for (number, template) in [(2, doubled), (3, &constant), (4, lists)] {
        let base = bench.talking(template).await;
        let outcome = bench.chat(number, base).await;
        let Done::Refused { kind, reason } = &outcome else { panic!("{outcome:?}") };
        assert_eq!(*kind, RefusalKind::Invalid.code());
        assert!(reason.contains("more memory, time or nesting"), "{reason}");
        let refused = bench.engine.inspect(base).await.unwrap_err();
        assert!(matches!(&refused, AskFault::Failed(why) if why.contains("chat template")), "{refused}");
        text_of(bench.chat(number + 10, good).await);
    }
    // Whether a value nested so deeply can be printed is the machine's matter; nothing but its process may end.
    let value = format!("{}ns.x{}", "[".repeat(50), "]".repeat(50));
    let deep = format!(
        "{{% set ns = namespace(x=1) %}}{{% for a in range(80) %}}{{% for b in range(100) %}}{{% set ns.x = {value} %}}{{% endfor %}}{{% endfor %}}{{{{ ns.x }}}}"
    );
    let deep = bench.talking(&deep).await;
    bench.chat(5, deep).await;
    assert_eq!((bench.engine.pid(), bench.engine.deaths()), (pid, 0));
    let facts = bench.engine.inspect(good).await.unwrap();
    assert!(facts.chat);
    let broken = bench.talking("{{ bos_token }}\n{% for m in messages %}\n{{ m.content }\n").await;
    let refused = bench.engine.inspect(broken).await.unwrap_err().to_string();
    assert!(refused.contains(":3)") && refused.contains("take it out"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_hangs_ends_in_time_with_its_engine_and_the_next_one_goes_on() {
    let bench = bench_within(Limits { job: Duration::from_secs(8), ..Limits::default() }).await;
    let facts = bench.engine.inspect(bench.base).await.expect("eight seconds are enough");
    signal("-STOP", bench.engine.pid());
    let (engine, base) = (bench.engine.clone(), bench.base);
    let looked = tokio::spawn(async move { engine.inspect(base).await });
    let mut answer = bench.ask(1, BEGINNING.into(), Decoding::default()).await;
    let fault = looked.await.unwrap().unwrap_err();
    assert!(matches!(fault, AskFault::Late(after) if after.as_secs() == 8), "{fault}");
    text_of(heard(&mut answer).await.1.unwrap());
    assert_eq!(bench.engine.deaths(), 1);
    assert_eq!(bench.engine.inspect(bench.base).await.unwrap(), facts);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_heeds_no_stop_does_not_keep_its_process() {
    let bench = bench_within(Limits { stopped: Duration::from_secs(1), ..Limits::default() }).await;
    let (number, _hanging) = cut_off(&bench).await;
    bench.engine.stop(Hash([number; 32])).await;
    text_of(bench.outcome(BEGINNING.into(), Decoding::default()).await);
    assert_eq!(bench.engine.deaths(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_fails_alone_beyond_the_memory_that_its_user_allows() {
    let folder = folder();
    let program = Path::new(env!("CARGO_BIN_EXE_tributary")).to_owned();
    let options = Options { memory_bytes: Some(1 << 30), ..Options::default() };
    let engine = EngineHandle::with(program, EngineFolder::at(&folder.path().join("engine")), options);
    let place = folder.path().join("base");
    write_base(&place);
    let (base, huge) = (Hash([1; 32]), Hash([2; 32]));
    engine.hold_base(base, &place).await.unwrap();
    engine.inspect(base).await.expect("a small base fits");
    let file = folder.path().join("huge.gguf");
    std::fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
    engine.hold_base(huge, &file).await.unwrap();
    let refused = engine.inspect(huge).await.unwrap_err();
    assert!(matches!(&refused, AskFault::Failed(why) if why.contains("may be used here")), "{refused}");
    assert_eq!(engine.deaths(), 0);
}
