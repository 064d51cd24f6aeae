//! The server's thread: takes mail, asks the scheduler, computes, and delivers.
//!
//! Invariant: it waits only for mail, and only while there is nothing to compute; each session is in `sessions` while
//! the scheduler knows it and in `parting` while its client has not taken the end.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tributary_protocol::id::Hash;

use super::super::events::ServeError;
use super::super::registry::{Loader, Loading};
use super::super::schedule::{Admitted, BlockId, Load, Order, Plan, RequestId, Scheduler};
use super::Mail;
use super::session::{Next, Session};
use super::step::{Computed, Part, compute};
use crate::kv::{Cache, SealedBlock};
use crate::lora::FrozenAdapter;
use crate::model::Base;

/// How often clients that don't read are tried again while nothing else happens.
const DELIVERY_RETRY: Duration = Duration::from_millis(20);
/// Ended sessions whose clients have not taken the end; beyond it the one that waits longest is let go.
const MAX_PARTING: usize = 1_024;

pub(super) struct Worker {
    base: Base,
    scheduler: Scheduler,
    loader: Loader,
    patience: Duration,
    load: Arc<Mutex<Load>>,
    sessions: BTreeMap<RequestId, Session>,
    parting: Vec<Session>,
    adapters: BTreeMap<Hash, Arc<FrozenAdapter>>,
    blocks: BTreeMap<BlockId, SealedBlock>,
}

impl Worker {
    pub(super) const fn new(
        base: Base,
        scheduler: Scheduler,
        loader: Loader,
        patience: Duration,
        load: Arc<Mutex<Load>>,
    ) -> Self {
        Self {
            base,
            scheduler,
            loader,
            patience,
            load,
            sessions: BTreeMap::new(),
            parting: Vec::new(),
            adapters: BTreeMap::new(),
            blocks: BTreeMap::new(),
        }
    }

    pub(super) fn run(mut self, mail: &Receiver<Mail>) {
        let mut busy = false;
        while self.take_mail(mail, busy) {
            self.drop_those_who_left();
            busy = self.step();
            self.deliver();
            *self.load.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = self.scheduler.load();
        }
        for session in self.sessions.values_mut() {
            session.fail(ServeError::Stopped);
            let _ = session.flush(Instant::now());
        }
        // The loader may be about to put an adapter into a full inbox: without a receiver it gives up.
    }

    /// Empties the inbox; waits for mail only when not `busy`. False when the server is to stop.
    fn take_mail(&mut self, mail: &Receiver<Mail>, busy: bool) -> bool {
        let first = match (busy, self.is_delivering()) {
            (true, _) => None,
            (false, false) => match mail.recv() {
                Ok(first) => Some(first),
                Err(_) => return false,
            },
            (false, true) => match mail.recv_timeout(DELIVERY_RETRY) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return false,
            },
        };
        if let Some(first) = first
            && !self.open(first)
        {
            return false;
        }
        loop {
            match mail.try_recv() {
                Ok(next) => {
                    if !self.open(next) {
                        return false;
                    }
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Whether somebody must be looked at though no mail comes: waits for a slow client, or for one to leave.
    fn is_delivering(&self) -> bool {
        !self.parting.is_empty() || !self.sessions.is_empty()
    }

    fn open(&mut self, mail: Mail) -> bool {
        match mail {
            Mail::Stop => return false,
            Mail::Cancel(id) => drop(self.forget(id)),
            Mail::Adapter(loading) => self.take_adapter(loading),
            Mail::Request { arrival, mut session } => {
                let id = arrival.id;
                match self.scheduler.arrive(arrival) {
                    Ok(()) => drop(self.sessions.insert(id, *session)),
                    Err(refused) => {
                        session.fail(refused.into());
                        self.part(*session);
                    }
                }
            }
        }
        true
    }

    fn take_adapter(&mut self, Loading { hash, result }: Loading) {
        match result {
            Ok(adapter) => {
                self.adapters.insert(hash, adapter);
                self.scheduler.loaded(&hash);
            }
            Err(reason) => self.without_adapter(hash, &reason),
        }
    }

    fn without_adapter(&mut self, hash: Hash, reason: &str) {
        tracing::warn!(%hash, reason, "an adapter can't be used");
        for id in self.scheduler.load_failed(&hash) {
            let Some(mut session) = self.sessions.remove(&id) else { continue };
            session.fail(ServeError::AdapterUnusable { hash, reason: reason.to_owned() });
            self.part(session);
        }
    }

    /// One step. Whether there was anything to compute.
    fn step(&mut self) -> bool {
        let Plan { dropped, admitted, orders, feeds } = self.scheduler.plan();
        for block in dropped {
            self.blocks.remove(&block);
        }
        for one in admitted {
            self.begin(&one);
        }
        for order in orders {
            self.obey(order);
        }
        let mut parts: Vec<Part> = feeds.into_iter().filter_map(|feed| self.part_of(feed.id, feed.tokens)).collect();
        if parts.is_empty() {
            return false;
        }
        // Rows of one adapter stand together.
        parts.sort_by_key(|part| (part.adapter_hash, part.id));
        for computed in compute(self.base.model(), parts) {
            self.take_in(computed);
        }
        true
    }

    fn begin(&mut self, Admitted { id, prefix }: &Admitted) {
        let shape = self.base.config();
        let blocks: Vec<SealedBlock> = prefix.iter().filter_map(|block| self.blocks.get(block).cloned()).collect();
        let cache = Cache::with_prefix(shape.layers, shape.kv_width(), &blocks);
        if let Some(session) = self.sessions.get_mut(id) {
            session.begin(cache, blocks.len());
            if catch_unwind(AssertUnwindSafe(|| session.announce())).is_err() {
                self.end(*id, ServeError::Panicked);
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Evict(hash) => drop(self.adapters.remove(&hash)),
            Order::Load(hash) => {
                if let Err(reason) = self.loader.order(hash) {
                    self.without_adapter(hash, reason);
                }
            }
        }
    }

    /// What a session feeds, with its memory lent for the step.
    fn part_of(&mut self, id: RequestId, tokens: usize) -> Option<Part> {
        let session = self.sessions.get_mut(&id)?;
        let cache = session.cache.take()?;
        let adapter = match session.adapter {
            None => None,
            Some(hash) => Some(self.adapters.get(&hash)?.clone()),
        };
        let tokens = session.tokens(cache.positions(), tokens);
        Some(Part { id, adapter_hash: session.adapter, adapter, tokens, cache })
    }

    fn take_in(&mut self, Computed { id, cache, outcome }: Computed) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let seen = cache.positions();
        // The sampler, the grammar and the client's sink are this request's own: if they panic, it alone ends.
        let heard = match outcome {
            Ok(outcome) => {
                catch_unwind(AssertUnwindSafe(|| session.heard(seen, outcome))).unwrap_or(Err(ServeError::Panicked))
            }
            Err(error) => Err(error),
        };
        let next = heard.unwrap_or_else(|error| {
            session.fail(error);
            Next::Over
        });
        let token = match next {
            Next::Token(token) => Some(token),
            Next::Prompt | Next::Over => None,
        };
        for publication in self.scheduler.advance(id, token) {
            if let Some(block) = cache.sealed(publication.index) {
                self.blocks.insert(publication.block, block);
            }
        }
        if next == Next::Over {
            if let Some(session) = self.forget(id) {
                self.part(session);
            }
        } else if let Some(session) = self.sessions.get_mut(&id) {
            session.cache = Some(cache);
        }
    }

    /// Ends a request for the scheduler.
    fn forget(&mut self, id: RequestId) -> Option<Session> {
        self.scheduler.end(id);
        self.sessions.remove(&id)
    }

    /// Ends a request whose client can't be told more than once.
    fn end(&mut self, id: RequestId, error: ServeError) {
        if let Some(mut session) = self.forget(id) {
            session.fail(error);
            // One last try: a client that looks later finds its stream closed.
            let _ = catch_unwind(AssertUnwindSafe(|| session.flush(Instant::now())));
        }
    }

    /// Keeps an ended session until its client has taken the end.
    fn part(&mut self, mut session: Session) {
        session.cache = None;
        if self.parting.len() >= MAX_PARTING {
            self.parting.remove(0);
        }
        self.parting.push(session);
    }

    fn drop_those_who_left(&mut self) {
        let gone: Vec<RequestId> =
            self.sessions.iter().filter(|(_, session)| session.is_gone()).map(|(id, _)| *id).collect();
        for id in gone {
            self.forget(id);
        }
    }

    /// Offers every client what there is for it, and cancels those who have not read for too long.
    fn deliver(&mut self) {
        let (now, patience) = (Instant::now(), self.patience);
        let mut ended = Vec::new();
        for (id, session) in &mut self.sessions {
            match catch_unwind(AssertUnwindSafe(|| session.flush(now))) {
                Ok(_) if session.full_for(now) < patience => {}
                Ok(_) => ended.push((*id, ServeError::NotRead { seconds: patience.as_secs() })),
                Err(_) => ended.push((*id, ServeError::Panicked)),
            }
        }
        for (id, error) in ended {
            self.end(id, error);
        }
        self.parting.retain_mut(|session| {
            let done = catch_unwind(AssertUnwindSafe(|| session.flush(now))).unwrap_or(true);
            !done && session.full_for(now) < patience
        });
    }
}
