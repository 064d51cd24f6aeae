//! The server: bitwise the answers of a lone request whatever shares its steps, and failures that stay with whoever
//! caused them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tributary_compute::engine::{Engine, EngineError, Finish, GenerateParams, Generation};
use tributary_compute::lora::{Adapter, FrozenAdapter, LoraConfig};
use tributary_compute::model::{Base, Mode, Packed};
use tributary_compute::proof::{ProofVerdict, check_generation};
use tributary_compute::sample::{Format, Sampling};
use tributary_compute::serve::registry::{CONFIG_FILE, RegistryError, WEIGHTS_FILE};
use tributary_compute::serve::schedule::{Limits, Refused};
use tributary_compute::serve::{
    ErrorKind, Event, EventStream, Finished, Offered, Piece, Prompt, Request, ServeError, Server, ServerConfig, Sink,
    Work,
};
use tributary_protocol::id::Hash;

use crate::serving_base::{adapter, base, lora};

/// Longer than anything here takes, on any machine.
const DEADLINE: Duration = Duration::from_secs(120);

fn save(adapter: &Adapter, folder: &Path) -> Hash {
    let files = adapter.to_files().unwrap();
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(CONFIG_FILE), &files.config_json).unwrap();
    std::fs::write(folder.join(WEIGHTS_FILE), &files.safetensors).unwrap();
    files.hash()
}

/// A server with adapters on disk.
struct Bench {
    base: Base,
    server: Server,
    adapters: Vec<(Hash, Adapter)>,
    folder: TempDir,
}

fn limits(base: &Base) -> Limits {
    Limits { step_tokens: 24, running: 12, ..Limits::for_memory(80, 1 << 30, base.config().max_positions) }
}

fn bench(adapters: u64, config: &ServerConfig) -> Bench {
    let base = base(1);
    let server = Server::start(&base, config).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let adapters = (0..adapters).map(|seed| {
        let adapter = adapter(&base, 50 + seed, 8.0);
        let place = folder.path().join(seed.to_string());
        let hash = save(&adapter, &place);
        assert_eq!(server.register(&place).unwrap(), hash);
        (hash, adapter)
    });
    Bench { adapters: adapters.collect(), base, server, folder }
}

fn default_bench(adapters: u64) -> Bench {
    let config = ServerConfig { limits: Some(limits(&base(1))), ..ServerConfig::default() };
    bench(adapters, &config)
}

fn sampled(max_tokens: usize, seed: u64) -> GenerateParams {
    GenerateParams { max_tokens, temperature: 0.9, seed, ..GenerateParams::default() }
}

fn request(adapter: Option<Hash>, prompt: &str, params: GenerateParams) -> Request {
    Request { adapter, prompt: Prompt::Text(prompt.to_owned()), work: Work::Generate { params, logprobs: None } }
}

/// Hears a stream to its end.
fn hear(events: &EventStream) -> (Vec<Piece>, Result<Finished, ServeError>) {
    let (mut begun, mut pieces) = (0, Vec::new());
    loop {
        match events.next_within(DEADLINE).expect("a stream ends with its last event") {
            Event::Begun => begun += 1,
            Event::Piece(piece) => pieces.push(piece),
            Event::Finished(finished) => {
                assert_eq!(begun, 1, "computing begins once, and says so");
                return (pieces, Ok(*finished));
            }
            Event::Failed(error) => return (pieces, Err(error)),
            Event::Embedding { .. } => panic!("nothing was to be embedded"),
        }
    }
}

fn answer(server: &Server, request: &Request) -> Result<Generation, ServeError> {
    let events = server.submit(request)?;
    let (pieces, finished) = hear(&events);
    let generation = finished?.generation;
    assert_eq!(pieces.iter().map(|piece| piece.text.as_str()).collect::<String>(), generation.text);
    Ok(generation)
}

fn alone(base: &Base, adapter: Option<&Adapter>, prompt: &str, params: &GenerateParams) -> Generation {
    Engine::new().generate(base, adapter, prompt, params, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// Waits until the server has nothing to do.
fn wait_until_idle(server: &Server) {
    let end = Instant::now() + DEADLINE;
    while server.load().waiting + server.load().running > 0 {
        assert!(Instant::now() < end, "{:?}", server.load());
        std::thread::yield_now();
    }
}

#[test]
fn a_crowd_gets_bitwise_the_answers_of_lone_requests() {
    let bench = default_bench(5);
    let long = "where does the old river flow past the mill? ".repeat(3);
    // Two rounds: the second finds prefixes of the first. A step has 24 tokens, so long prompts come in chunks.
    for round in 0..2 {
        let mut asked = Vec::new();
        for at in 0..24_u64 {
            let adapter = bench.adapters.get(usize::try_from(at % 6).unwrap());
            let prompt = if at % 3 == 0 { format!("{long}{}", at % 4) } else { format!("who owns mill {}", at % 5) };
            let mut params = sampled(5 + usize::try_from(at).unwrap(), at);
            params.temperature = if at % 4 == 0 { 0.0 } else { 0.9 };
            if at % 5 == 0 {
                params.sampling = Sampling { top_k: 40, top_p: 0.9, repetition_penalty: 1.2, ..Sampling::default() };
            }
            let request = request(adapter.map(|(hash, _)| *hash), &prompt, params.clone());
            asked.push((adapter, prompt, params, bench.server.submit(&request).unwrap()));
        }
        let mut cached = 0;
        for (adapter, prompt, params, events) in asked {
            let adapter = adapter.map(|(_, adapter)| adapter);
            let (_, finished) = hear(&events);
            let finished = finished.unwrap();
            let expected = alone(&bench.base, adapter, &prompt, &params);
            assert_eq!(finished.generation, expected, "round {round}");
            assert_eq!(finished.usage.prompt_tokens, expected.prompt_tokens.len());
            assert_eq!(finished.usage.completion_tokens, expected.output_tokens.len());
            cached += finished.usage.cached_tokens;
            let found = check_generation(
                &bench.base,
                adapter,
                &finished.generation.prompt_tokens,
                &finished.generation.output_tokens,
                &finished.generation.fingerprints,
                &params,
            );
            assert_eq!(found.unwrap(), ProofVerdict::Match);
        }
        assert!(round == 0 || cached > 0, "the second round finds blocks of the first");
    }
}

#[test]
fn more_adapters_than_fit_are_swapped_and_change_nothing() {
    let base = base(1);
    let bytes = bench_adapter_bytes(&base);
    let limits = Limits { adapter_bytes: 2 * bytes + 1, loads: 1, ..limits(&base) };
    let bench = bench(8, &ServerConfig { limits: Some(limits), ..ServerConfig::default() });
    let asked: Vec<_> = (0..32_u64)
        .map(|at| {
            let (hash, adapter) = &bench.adapters[usize::try_from(at % 8).unwrap()];
            let params = sampled(6, at);
            (adapter, params.clone(), bench.server.submit(&request(Some(*hash), "the river", params)).unwrap())
        })
        .collect();
    for (adapter, params, events) in asked {
        let generation = hear(&events).1.unwrap().generation;
        assert_eq!(generation, alone(&bench.base, Some(adapter), "the river", &params));
        assert!(bench.server.load().adapter_bytes <= 2 * bytes + 1);
    }
}

fn bench_adapter_bytes(base: &Base) -> u64 {
    FrozenAdapter::bytes(base.config(), adapter(base, 1, 8.0).config()) as u64
}

#[test]
fn an_unknown_adapter_is_never_answered_by_the_base() {
    let bench = default_bench(1);
    let unknown = Hash([7; 32]);
    let error = bench.server.submit(&request(Some(unknown), "hello", sampled(5, 1))).unwrap_err();
    assert!(matches!(error, ServeError::UnknownAdapter(hash) if hash == unknown));
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(bench.server.registry().forget(&bench.adapters[0].0));
    let error = bench.server.submit(&request(Some(bench.adapters[0].0), "hello", sampled(5, 1))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn broken_adapters_are_refused_when_registered_or_when_read() {
    let bench = default_bench(1);
    let (good_hash, good) = &bench.adapters[0];
    let place = |name: &str| -> PathBuf { bench.folder.path().join(name) };
    let register = |name: &str| bench.server.register(&place(name));
    assert!(matches!(register("nowhere"), Err(RegistryError::File { .. })));
    // Over-rank, and larger than its configuration says.
    save(good, &place("rank"));
    let config = std::fs::read_to_string(place("rank").join(CONFIG_FILE)).unwrap();
    std::fs::write(place("rank").join(CONFIG_FILE), config.replace("\"r\": 4", "\"r\": 257")).unwrap();
    assert!(matches!(register("rank"), Err(RegistryError::Lora(_))));
    std::fs::write(place("rank").join(CONFIG_FILE), config.replace("\"r\": 4", "\"r\": 1")).unwrap();
    assert!(matches!(register("rank"), Err(RegistryError::TooLarge { .. })));
    // Damaged after it was registered: known, but those who wait for it hear why not, and nobody else.
    let doomed = adapter(&bench.base, 99, 8.0);
    let hash = save(&doomed, &place("doomed"));
    bench.server.register(&place("doomed")).unwrap();
    let weights = place("doomed").join(WEIGHTS_FILE);
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let waiting = bench.server.submit(&request(Some(hash), "the river", sampled(5, 1))).unwrap();
    let other = bench.server.submit(&request(Some(*good_hash), "the river", sampled(5, 1))).unwrap();
    let error = hear(&waiting).1.unwrap_err();
    assert!(matches!(&error, ServeError::AdapterUnusable { hash: which, .. } if *which == hash), "{error}");
    assert!(hear(&other).1.is_ok());
}

#[test]
fn a_poisoned_adapter_fails_alone() {
    let bench = default_bench(1);
    let shape = LoraConfig { alpha: 60_000.0, ..lora(8.0) };
    let count = adapter(&bench.base, 1, 8.0).values().unwrap().len();
    let poison = Adapter::from_values(bench.base.config(), &shape, &vec![1e30; count]).unwrap();
    let place = bench.folder.path().join("poison");
    save(&poison, &place);
    let hash = bench.server.register(&place).unwrap();
    let (good, adapter) = &bench.adapters[0];
    let healthy: Vec<_> =
        (0..4).map(|seed| bench.server.submit(&request(Some(*good), "who owns", sampled(30, seed))).unwrap()).collect();
    let poisoned = bench.server.submit(&request(Some(hash), "who owns", sampled(30, 1))).unwrap();
    let error = hear(&poisoned).1.unwrap_err();
    assert!(matches!(error, ServeError::Engine(EngineError::NotFinite { .. })), "{error}");
    for (seed, events) in (0_u64..).zip(healthy) {
        let generation = hear(&events).1.unwrap().generation;
        assert_eq!(generation, alone(&bench.base, Some(adapter), "who owns", &sampled(30, seed)));
    }
}

/// A client whose code panics when it is given text.
struct Exploding;

impl Sink for Exploding {
    fn offer(&mut self, _: Event) -> Offered {
        panic!("this client's own fault");
    }

    fn is_gone(&self) -> bool {
        false
    }
}

/// A client that takes nothing until it is told to.
struct Deaf {
    events: Sender<Event>,
    listens: Arc<std::sync::atomic::AtomicBool>,
}

impl Sink for Deaf {
    fn offer(&mut self, event: Event) -> Offered {
        match self.listens.load(std::sync::atomic::Ordering::SeqCst) {
            false => Offered::Full(event),
            true => self.events.send(event).map_or(Offered::Gone, |()| Offered::Taken),
        }
    }

    fn is_gone(&self) -> bool {
        false
    }
}

fn deaf() -> (Deaf, Receiver<Event>, Arc<std::sync::atomic::AtomicBool>) {
    let (events, heard) = channel();
    let listens = Arc::new(std::sync::atomic::AtomicBool::new(false));
    (Deaf { events, listens: listens.clone() }, heard, listens)
}

#[test]
fn a_panic_in_one_request_ends_it_alone() {
    let bench = default_bench(0);
    let other = bench.server.submit(&request(None, "names: ", sampled(40, 3))).unwrap();
    bench.server.submit_to(&request(None, "names: ", sampled(40, 4)), Box::new(Exploding)).unwrap();
    assert_eq!(hear(&other).1.unwrap().generation, alone(&bench.base, None, "names: ", &sampled(40, 3)));
    wait_until_idle(&bench.server);
    assert!(answer(&bench.server, &request(None, "names: ", sampled(4, 5))).is_ok(), "the server lives on");
}

#[test]
fn a_client_that_never_reads_is_let_go_and_holds_up_nobody() {
    let config = ServerConfig { patience: Duration::from_millis(1), ..ServerConfig::default() };
    let bench = bench(0, &config);
    let (sink, heard, listens) = deaf();
    bench.server.submit_to(&request(None, "names: ", sampled(100, 3)), Box::new(sink)).unwrap();
    assert!(answer(&bench.server, &request(None, "names: ", sampled(100, 5))).is_ok());
    wait_until_idle(&bench.server);
    listens.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(heard.recv_timeout(DEADLINE).is_err(), "its stream is closed");
}

#[test]
fn a_client_that_reads_late_misses_nothing() {
    let bench = default_bench(0);
    let (sink, heard, listens) = deaf();
    bench.server.submit_to(&request(None, "names: ", sampled(60, 3)), Box::new(sink)).unwrap();
    wait_until_idle(&bench.server);
    listens.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut text = String::new();
    loop {
        match heard.recv_timeout(DEADLINE).unwrap() {
            Event::Begun => {}
            Event::Piece(piece) => text.push_str(&piece.text),
            Event::Finished(finished) => {
                assert_eq!(finished.generation.text, text);
                return assert_eq!(finished.generation, alone(&bench.base, None, "names: ", &sampled(60, 3)));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn dropping_the_stream_or_cancelling_frees_everything() {
    let bench = default_bench(1);
    let hash = bench.adapters[0].0;
    for _ in 0..20 {
        drop(bench.server.submit(&request(Some(hash), "names: ", sampled(100, 1))).unwrap());
        let events = bench.server.submit(&request(None, "names: ", sampled(100, 1))).unwrap();
        bench.server.cancel(events.id()).unwrap();
    }
    wait_until_idle(&bench.server);
    assert!(answer(&bench.server, &request(Some(hash), "names: ", sampled(4, 5))).is_ok());
}

#[test]
fn ten_thousand_queued_requests_then_a_typed_refusal() {
    let base = base(1);
    let limits = Limits { queued: 10_000, running: 8, ..limits(&base) };
    let bench = bench(0, &ServerConfig { limits: Some(limits), ..ServerConfig::default() });
    let mut events = Vec::new();
    while events.len() < 10_040 {
        match bench.server.submit(&request(None, "a", sampled(150, 1))) {
            Ok(stream) => events.push(stream),
            Err(ServeError::Busy) => std::thread::yield_now(),
            Err(other) => panic!("{other}"),
        }
    }
    let refused = events.iter().rev().take(30).find_map(|stream| match stream.next_within(DEADLINE) {
        Ok(Event::Failed(error)) => Some(error),
        _ => None,
    });
    let refused = refused.expect("one of the last was refused");
    assert!(matches!(refused, ServeError::Refused(Refused::QueueFull { waiting: 10_000 })), "{refused}");
    assert_eq!(refused.kind(), ErrorKind::TryLater);
    drop(events);
    wait_until_idle(&bench.server);
    assert!(answer(&bench.server, &request(None, "a", sampled(4, 1))).is_ok());
}

#[test]
fn malformed_requests_are_refused_before_anything_is_taken() {
    let bench = default_bench(0);
    let refused = |request: &Request| bench.server.submit(request).map(|_| ()).unwrap_err();
    let long = refused(&request(None, &"river ".repeat(400), sampled(5, 1)));
    assert!(matches!(long, ServeError::Engine(EngineError::PromptTooLong { .. })), "{long}");
    assert_eq!(long.kind(), ErrorKind::Invalid);
    let with = |prompt: Prompt, work: Work| Request { adapter: None, prompt, work };
    let generate = |params| Work::Generate { params, logprobs: None };
    for one in [
        with(Prompt::Tokens(Vec::new()), generate(sampled(5, 1))),
        with(Prompt::Tokens(vec![1, 320]), generate(sampled(5, 1))),
        with(Prompt::Tokens(vec![1; 161]), Work::Embed),
        with(Prompt::Tokens(vec![1]), generate(sampled(0, 1))),
        with(Prompt::Tokens(vec![1]), generate(GenerateParams { temperature: f32::NAN, ..sampled(5, 1) })),
        with(
            Prompt::Tokens(vec![1]),
            generate(GenerateParams { format: Format::JsonSchema("{".into()), ..sampled(5, 1) }),
        ),
        with(Prompt::Tokens(vec![1]), Work::Generate { params: sampled(5, 1), logprobs: Some(21) }),
    ] {
        assert_eq!(refused(&one).kind(), ErrorKind::Invalid, "{one:?}");
    }
    let top_p = Sampling { top_p: 0.0, ..Sampling::default() };
    assert_eq!(
        refused(&request(None, "a", GenerateParams { sampling: top_p, ..sampled(5, 1) })).kind(),
        ErrorKind::Invalid
    );
}

#[test]
fn constrained_answers_are_json_and_their_proofs_hold() {
    let bench = default_bench(1);
    let (hash, adapter) = &bench.adapters[0];
    let schema = r#"{"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["n"], "additionalProperties": false}"#;
    let params = GenerateParams { format: Format::JsonSchema(schema.into()), ..sampled(120, 8) };
    let generation = answer(&bench.server, &request(Some(*hash), "names: ", params.clone())).unwrap();
    assert_eq!(generation.finish, Finish::EndOfText, "{}", generation.text);
    let value: serde_json::Value = serde_json::from_str(&generation.text).unwrap();
    assert!((0..=9).contains(&value["n"].as_i64().unwrap()));
    let Generation { prompt_tokens, output_tokens, fingerprints, .. } = generation;
    let check = |params| {
        check_generation(&bench.base, Some(adapter), &prompt_tokens, &output_tokens, &fingerprints, params).unwrap()
    };
    assert_eq!(check(&params), ProofVerdict::Match);
    let free = GenerateParams { format: Format::Text, ..params.clone() };
    assert!(matches!(check(&free), ProofVerdict::Mismatch { .. }), "unconstrained, other tokens are picked");
}

#[test]
fn logprobs_come_with_every_token() {
    let bench = default_bench(0);
    let mut request = request(None, "names: ", sampled(30, 2));
    let Work::Generate { logprobs, .. } = &mut request.work else { unreachable!() };
    *logprobs = Some(3);
    let (pieces, finished) = hear(&bench.server.submit(&request).unwrap());
    let reported: Vec<_> = pieces.into_iter().flat_map(|piece| piece.tokens).collect();
    let tokens: Vec<u32> = reported.iter().map(|report| report.chosen.token).collect();
    assert_eq!(tokens, finished.unwrap().generation.output_tokens);
    for report in reported {
        assert_eq!(report.top.len(), 3);
        assert!(report.top.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob));
        assert!(report.chosen.logprob <= report.top[0].logprob && report.top[0].logprob <= 0.0);
    }
}

#[test]
fn embeddings_are_the_mean_of_the_last_hidden_states() {
    let bench = default_bench(1);
    let (hash, adapter) = &bench.adapters[0];
    let prompt = "where does the old river flow past the mill? ".repeat(2);
    let tokens = bench.base.tokenizer().encode_prompt(&prompt).unwrap();
    for chosen in [None, Some((*hash, adapter))] {
        let request =
            Request { adapter: chosen.map(|(hash, _)| hash), prompt: Prompt::Text(prompt.clone()), work: Work::Embed };
        let events = bench.server.submit(&request).unwrap();
        assert!(matches!(events.next_within(DEADLINE), Ok(Event::Begun)));
        let Event::Embedding { vector, usage } = events.next_within(DEADLINE).unwrap() else { panic!("no embedding") };
        assert_eq!(usage.prompt_tokens, tokens.len());
        let hook = chosen.map_or(tributary_compute::linear::Hook::Base, |(_, adapter)| {
            tributary_compute::linear::Hook::One(adapter, None)
        });
        let hidden = bench.base.model().hidden(Mode::Infer, &Packed::new(&[&tokens]).unwrap(), hook).unwrap();
        let mut mean = vec![0.0_f64; vector.len()];
        for row in hidden.to_vec2::<f32>().unwrap() {
            mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += f64::from(value));
        }
        let length = mean.iter().map(|value| value * value).sum::<f64>().sqrt();
        #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
        let expected: Vec<f32> = mean.iter().map(|value| (value / length) as f32).collect();
        assert_eq!(vector, expected);
    }
}

#[test]
fn stopping_the_server_ends_every_stream() {
    let bench = default_bench(0);
    let events: Vec<_> =
        (0..20).map(|seed| bench.server.submit(&request(None, "names: ", sampled(140, seed))).unwrap()).collect();
    drop(bench.server);
    for stream in events {
        match hear(&stream).1 {
            Ok(_) | Err(ServeError::Stopped) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_thousand_known_adapters_are_nothing_but_names() {
    let bench = default_bench(1);
    let folder = bench.folder.path().join("0");
    for number in 0..1_000_u64 {
        let mut name = [9; 32];
        name[..8].copy_from_slice(&number.to_le_bytes());
        bench.server.registry().register(Hash(name), &folder).unwrap();
    }
    assert_eq!(bench.server.registry().known().len(), 1_001);
    assert_eq!(bench.server.load().adapter_bytes, 0, "none is in memory before it is asked for");
    // Known under a name that its files don't have: refused when it is read.
    let mut name = [9; 32];
    name[..8].copy_from_slice(&5_u64.to_le_bytes());
    let events = bench.server.submit(&request(Some(Hash(name)), "names: ", sampled(4, 1))).unwrap();
    assert!(matches!(hear(&events).1, Err(ServeError::AdapterUnusable { .. })));
}
