//! The scheduler against a driver that obeys its plans and checks every promise of the module.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use tributary_protocol::id::Hash;

use super::{AdapterSize, Admitted, Arrival, BlockId, Limits, Order, Plan, Refused, RequestId, Scheduler};
use crate::kv::BLOCK_POSITIONS;

fn limits() -> Limits {
    Limits {
        step_tokens: 48,
        running: 6,
        queued: 12,
        queued_tokens: 2_000,
        kv_blocks: 24,
        adapter_bytes: 30,
        loads: 2,
        positions: 400,
    }
}

fn adapter(number: u8) -> AdapterSize {
    AdapterSize { hash: Hash([number; 32]), bytes: 10 }
}

fn arrival(id: u64, lane: u8, prompt: usize, max_tokens: usize) -> Arrival {
    let prompt = (0..prompt).map(|at| u32::try_from(at).unwrap() % 7).collect();
    let adapter = (lane > 0).then(|| adapter(lane));
    Arrival { id: RequestId(id), adapter, prompt, max_tokens, whole_prompt: max_tokens == 0 }
}

/// A sequence as the driver sees it.
#[derive(Debug)]
struct Running {
    lane: u8,
    prompt: usize,
    fed: usize,
    output: usize,
    max_tokens: usize,
    /// Published blocks under its first positions.
    shared: Vec<BlockId>,
}

/// Obeys plans and checks them.
struct Driver {
    scheduler: Scheduler,
    limits: Limits,
    waiting: BTreeMap<RequestId, Running>,
    running: BTreeMap<RequestId, Running>,
    ended: BTreeSet<RequestId>,
    resident: BTreeSet<Hash>,
    loading: Vec<Hash>,
    /// Published blocks and their first token positions' owner lane.
    blocks: BTreeMap<BlockId, (u8, usize)>,
    next: u64,
    log: Vec<Plan>,
}

impl Driver {
    fn new(limits: Limits) -> Self {
        Self {
            scheduler: Scheduler::new(limits.clone()),
            limits,
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            ended: BTreeSet::new(),
            resident: BTreeSet::new(),
            loading: Vec::new(),
            blocks: BTreeMap::new(),
            next: 0,
            log: Vec::new(),
        }
    }

    fn arrive(&mut self, lane: u8, prompt: usize, max_tokens: usize) -> Result<RequestId, Refused> {
        self.next += 1;
        let id = RequestId(self.next);
        self.scheduler.arrive(arrival(id.0, lane, prompt, max_tokens))?;
        let max_tokens = max_tokens.min(self.limits.positions - prompt);
        let running = Running { lane, prompt, fed: 0, output: 0, max_tokens, shared: Vec::new() };
        self.waiting.insert(id, running);
        Ok(id)
    }

    fn end(&mut self, id: RequestId) {
        assert!(self.scheduler.end(id), "{id:?} is known");
        assert!(!self.scheduler.end(id), "and only once");
        self.waiting.remove(&id);
        self.running.remove(&id);
        assert!(self.ended.insert(id));
    }

    fn begin(&mut self, admitted: &Admitted) {
        let mut running = self.waiting.remove(&admitted.id).expect("it waited");
        if running.lane > 0 {
            assert!(self.resident.contains(&Hash([running.lane; 32])), "it begins on an adapter in memory");
        }
        for (index, block) in admitted.prefix.iter().enumerate() {
            assert_eq!(self.blocks[block], (running.lane, index), "the block is of that lane and place");
        }
        running.fed = admitted.prefix.len() * BLOCK_POSITIONS;
        assert!(running.fed < running.prompt, "a prompt token is left to feed");
        running.shared.clone_from(&admitted.prefix);
        self.running.insert(admitted.id, running);
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Load(hash) => {
                assert!(!self.resident.contains(&hash) && !self.loading.contains(&hash));
                self.loading.push(hash);
            }
            Order::Evict(hash) => {
                assert!(self.resident.remove(&hash));
                assert!(self.running.values().all(|running| Hash([running.lane; 32]) != hash), "nobody runs on it");
            }
        }
        assert!((self.resident.len() + self.loading.len()) * 10 <= 30, "the adapter budget");
        assert!(self.loading.len() <= self.limits.loads);
    }

    fn feed(&mut self, id: RequestId, tokens: usize) {
        let running = self.running.get_mut(&id).expect("only running sequences are fed");
        running.fed += tokens;
        assert!(running.fed <= running.prompt + running.output, "it has the tokens");
        let picked = running.fed >= running.prompt && running.output < running.max_tokens;
        running.output += usize::from(picked);
        let over = running.fed >= running.prompt && running.output >= running.max_tokens;
        let lane = running.lane;
        for publication in self.scheduler.advance(id, picked.then_some(3)) {
            assert!(self.blocks.insert(publication.block, (lane, publication.index)).is_none());
            if let Some(running) = self.running.get_mut(&id) {
                assert_eq!(running.shared.len(), publication.index);
                running.shared.push(publication.block);
            }
        }
        if over {
            self.end(id);
        }
    }

    /// Distinct blocks that exist: published ones, and those that sequences hold alone.
    fn blocks_in_memory(&self) -> usize {
        let own = |running: &Running| running.fed.div_ceil(BLOCK_POSITIONS) - running.shared.len();
        self.blocks.len() + self.running.values().map(own).sum::<usize>()
    }

    fn step(&mut self) -> usize {
        let plan = self.scheduler.plan();
        for block in &plan.dropped {
            assert!(self.blocks.remove(block).is_some());
            assert!(self.running.values().all(|running| !running.shared.contains(block)), "in use");
        }
        plan.admitted.iter().for_each(|admitted| self.begin(admitted));
        plan.orders.iter().for_each(|order| self.obey(*order));
        assert!(plan.feeds.iter().map(|feed| feed.tokens).sum::<usize>() <= self.limits.step_tokens);
        assert!(self.running.len() <= self.limits.running);
        let fed: BTreeSet<RequestId> = plan.feeds.iter().map(|feed| feed.id).collect();
        assert_eq!(fed.len(), plan.feeds.len(), "a sequence is fed once");
        for (id, running) in &self.running {
            assert!(running.fed < running.prompt || fed.contains(id), "who decodes does so in every step");
        }
        for feed in &plan.feeds {
            self.feed(feed.id, feed.tokens);
        }
        assert!(self.blocks_in_memory() <= self.limits.kv_blocks, "the block budget");
        let load = self.scheduler.load();
        assert!(load.kv_blocks <= self.limits.kv_blocks && load.adapter_bytes <= self.limits.adapter_bytes);
        assert_eq!((load.waiting, load.running), (self.waiting.len(), self.running.len()));
        let fed = plan.feeds.len();
        self.log.push(plan);
        fed
    }

    fn load_first(&mut self) {
        if !self.loading.is_empty() {
            let hash = self.loading.remove(0);
            self.resident.insert(hash);
            self.scheduler.loaded(&hash);
        }
    }

    fn fail_first(&mut self) {
        if !self.loading.is_empty() {
            let hash = self.loading.remove(0);
            for id in self.scheduler.load_failed(&hash) {
                assert_eq!(Hash([self.waiting.remove(&id).unwrap().lane; 32]), hash);
                assert!(self.ended.insert(id), "only once");
            }
        }
    }

    /// Steps until everything has ended.
    fn drain(&mut self) {
        for _ in 0..20_000 {
            if self.waiting.is_empty() && self.running.is_empty() {
                return;
            }
            let fed = self.step();
            assert!(fed > 0 || !self.loading.is_empty() || self.waiting.is_empty(), "nothing to do and no end");
            self.load_first();
        }
        panic!("{} wait, {} run", self.waiting.len(), self.running.len());
    }
}

#[derive(Debug, Clone)]
enum Move {
    Arrive { lane: u8, prompt: usize, max_tokens: usize },
    Cancel(usize),
    Step,
    Loaded,
    Failed,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let arrive = (0..8_u8, 1..200_usize, 0..60_usize).prop_map(|(lane, prompt, max_tokens)| Move::Arrive {
        lane,
        prompt,
        max_tokens,
    });
    let one = prop_oneof![
        4 => arrive,
        1 => any::<usize>().prop_map(Move::Cancel),
        8 => Just(Move::Step),
        3 => Just(Move::Loaded),
        1 => Just(Move::Failed),
    ];
    proptest::collection::vec(one, 0..250)
}

fn play(moves: &[Move]) -> Driver {
    let mut driver = Driver::new(limits());
    for one in moves {
        match one {
            Move::Arrive { lane, prompt, max_tokens } => drop(driver.arrive(*lane, *prompt, *max_tokens)),
            Move::Cancel(at) => {
                let known: Vec<RequestId> = driver.waiting.keys().chain(driver.running.keys()).copied().collect();
                if let Some(id) = known.get(at % known.len().max(1)) {
                    driver.end(*id);
                }
            }
            Move::Step => drop(driver.step()),
            Move::Loaded => driver.load_first(),
            Move::Failed => driver.fail_first(),
        }
    }
    driver
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn promises_hold_and_everything_ends_once(moves in moves()) {
        let mut driver = play(&moves);
        driver.drain();
        let load = driver.scheduler.load();
        assert_eq!((load.waiting, load.running, load.kv_blocks), (0, 0, driver.blocks.len()));
        assert!(play(&moves).log == play(&moves).log, "equal calls, equal plans");
    }

    #[test]
    fn a_flood_starves_nobody(lane in 0..8_u8, flood in 1..8_u8, prompt in 1..150_usize, max_tokens in 1..40_usize) {
        let mut driver = Driver::new(limits());
        let mut mine = None;
        let mut step = 0;
        while !mine.is_some_and(|id| driver.ended.contains(&id)) {
            // As many of the busy lane as the queue takes, but for one place.
            while driver.waiting.len() < 11 && driver.arrive(flood, 120, 30).is_ok() {}
            if step == 40 {
                mine = Some(driver.arrive(lane, prompt, max_tokens).unwrap());
            }
            // All that runs before it, twice, the patience with others, and its own steps.
            assert!(step < 40 + 2 * 6 * 40 + prompt + max_tokens + 40, "starved for {step} steps");
            driver.step();
            driver.load_first();
            step += 1;
        }
    }
}

#[test]
fn a_request_whose_adapter_is_not_here_holds_up_nobody() {
    let mut driver = Driver::new(limits());
    let far = driver.arrive(1, 10, 4).unwrap();
    let near = driver.arrive(0, 10, 4).unwrap();
    for _ in 0..6 {
        driver.step();
    }
    assert!(driver.ended.contains(&near) && driver.waiting.contains_key(&far));
    driver.load_first();
    driver.drain();
    assert!(driver.ended.contains(&far));
}

#[test]
fn more_adapters_than_fit_take_turns() {
    let mut driver = Driver::new(limits());
    for _ in 0..40 {
        for lane in 1..8 {
            let _ = driver.arrive(lane, 40, 20);
        }
        driver.step();
        driver.load_first();
    }
    driver.drain();
    let evictions = driver.log.iter().flat_map(|plan| &plan.orders).filter(|order| matches!(order, Order::Evict(_)));
    assert!(evictions.count() > 3);
}

#[test]
fn a_shared_beginning_is_read_once_per_adapter() {
    let mut driver = Driver::new(limits());
    let read = |driver: &Driver| driver.log.iter().flat_map(|plan| &plan.feeds).map(|feed| feed.tokens).sum::<usize>();
    let mut cost = |lane, prompt, max_tokens| {
        let before = read(&driver);
        driver.arrive(lane, prompt, max_tokens).unwrap();
        driver.drain();
        read(&driver) - before
    };
    assert_eq!(cost(0, 100, 3), 102);
    assert_eq!(cost(0, 100, 3), 6, "three blocks of 32 are known");
    assert_eq!(cost(1, 100, 3), 102, "not to another adapter");
    assert_eq!(cost(1, 100, 3), 6);
    assert_eq!(cost(0, 96, 1), 32, "the last token's hidden state is needed");
    assert_eq!(cost(0, 64, 0), 64, "and here every one");
}

#[test]
fn refusals_are_typed_and_change_nothing() {
    let mut driver = Driver::new(limits());
    let load = driver.scheduler.load();
    assert_eq!(driver.arrive(0, 0, 4), Err(Refused::Prompt { tokens: 0, positions: 400 }));
    assert_eq!(driver.arrive(0, 401, 0), Err(Refused::Prompt { tokens: 401, positions: 400 }));
    let large = Arrival { adapter: Some(AdapterSize { hash: Hash([9; 32]), bytes: 31 }), ..arrival(77, 0, 3, 3) };
    assert_eq!(driver.scheduler.arrive(large), Err(Refused::Adapter { bytes: 31, budget: 30 }));
    let mut small = Scheduler::new(Limits { kv_blocks: 2, ..limits() });
    assert_eq!(small.arrive(arrival(1, 0, 60, 6)), Err(Refused::Memory { blocks: 3, capacity: 2 }));
    assert_eq!(small.arrive(arrival(1, 0, 60, 5)), Ok(()));
    assert_eq!(small.arrive(arrival(1, 0, 60, 5)), Err(Refused::Known(RequestId(1))));
    assert_eq!(driver.scheduler.load(), load);
    for _ in 0..12 {
        driver.arrive(0, 10, 4).unwrap();
    }
    assert_eq!(driver.arrive(0, 10, 4), Err(Refused::QueueFull { waiting: 12 }));
    driver.drain();
    for _ in 0..5 {
        driver.arrive(0, 390, 4).unwrap();
    }
    assert_eq!(driver.arrive(0, 390, 4), Err(Refused::QueueTokens { tokens: 1_950 }));
}

#[test]
fn ten_thousand_wait_without_being_looked_at() {
    let limits = Limits { queued: 10_000, queued_tokens: 1 << 20, ..limits() };
    let mut driver = Driver::new(limits);
    for number in 0..10_000 {
        driver.arrive(u8::try_from(number % 5).unwrap(), 5, 2).unwrap();
    }
    assert!(matches!(driver.arrive(0, 5, 2), Err(Refused::QueueFull { waiting: 10_000 })));
    driver.drain();
    assert_eq!(driver.ended.len(), 10_000);
}
