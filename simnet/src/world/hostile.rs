//! Attackers: peers without a node that send whatever might do harm.
//!
//! Invariant: an attacker has only its own keys; it forges others' signatures by guessing.

use std::collections::VecDeque;
use std::sync::Arc;

use tributary_protocol::batch::{BatchHead, EpochHead};
use tributary_protocol::card::CardChange;
use tributary_protocol::envelope::{self, Signed};
use tributary_protocol::id::{Amount, Hash, Signature};
use tributary_protocol::limits::REQUEST_MAX_BYTES;
use tributary_protocol::message::Message;
use tributary_protocol::receipt::{SignedReceipt, Voucher};

use super::{Happening, World};

/// Milliseconds between the attacks of one attacker.
const ATTACK_MS: u64 = 700;
/// Messages an attacker remembers to send again.
const OVERHEARD_MAX: usize = 64;
/// Neighbours that an attacker's gossip reaches: honest peers carry none of it on.
const NEIGHBOURS: usize = 6;

#[derive(Default)]
pub(super) struct Attackers {
    overheard: VecDeque<Arc<[u8]>>,
    sequence: u64,
}

impl Attackers {
    pub(super) fn overhear(&mut self, bytes: &Arc<[u8]>) {
        if self.overheard.len() >= OVERHEARD_MAX {
            self.overheard.pop_front();
        }
        self.overheard.push_back(Arc::clone(bytes));
    }
}

impl World {
    pub(super) fn attack(&mut self, host: usize) {
        self.schedule(ATTACK_MS, Happening::Attack { host });
        let gossip = self.attack_chance.happens(500_000);
        let Some(bytes) = self.harmful_bytes(host) else { return };
        self.count("attacks");
        let bytes: Arc<[u8]> = Arc::from(bytes);
        for _ in 0..NEIGHBOURS {
            let to =
                usize::try_from(self.attack_chance.below(u64::try_from(self.hosts.len()).unwrap_or(1))).unwrap_or(0);
            let bytes = Arc::clone(&bytes);
            if to != host {
                self.schedule(20, Happening::Deliver { to, origin: host, gossip, bytes });
            }
        }
    }

    fn harmful_bytes(&mut self, host: usize) -> Option<Vec<u8>> {
        match self.attack_chance.below(9) {
            0 => {
                let length = usize::try_from(self.attack_chance.below(2_000)).unwrap_or(0);
                Some(self.attack_chance.noise(length))
            }
            1 => Some(self.overheard()?.to_vec()),
            2 => self.one_bit_changed(),
            3 => {
                let body = self.attack_chance.noise(100);
                let kind = u16::try_from(self.attack_chance.below(40)).unwrap_or(0);
                Some(self.sealed(host, kind, body))
            }
            4 => Some(self.sealed(host, 6, vec![0; REQUEST_MAX_BYTES + 1])),
            5 => {
                let message = self.forged_receipt()?;
                Some(self.sealed(host, message.kind(), message.to_body()))
            }
            6 => {
                let message = self.forged_voucher(host);
                Some(self.sealed(host, message.kind(), message.to_body()))
            }
            7 => {
                let message = self.forged_card(host)?;
                Some(self.sealed(host, message.kind(), message.to_body()))
            }
            _ => {
                let message = self.forged_head(host);
                Some(self.sealed(host, message.kind(), message.to_body()))
            }
        }
    }

    fn overheard(&mut self) -> Option<Arc<[u8]>> {
        let all: Vec<Arc<[u8]>> = self.attackers.overheard.iter().cloned().collect();
        self.attack_chance.pick(&all).cloned()
    }

    fn one_bit_changed(&mut self) -> Option<Vec<u8>> {
        let mut bytes = self.overheard()?.to_vec();
        let place = usize::try_from(self.attack_chance.below(u64::try_from(bytes.len()).ok()?)).ok()?;
        bytes[place] ^= 1 << self.attack_chance.below(8);
        Some(bytes)
    }

    fn sealed(&mut self, host: usize, kind: u16, body: Vec<u8>) -> Vec<u8> {
        self.attackers.sequence += 1;
        let sequence = (self.now_ms << 10) + self.attackers.sequence;
        envelope::seal(&self.hosts[host].node_key(), self.network, sequence, self.now_ms, kind, body)
    }

    /// A receipt with a true party and a false price.
    fn forged_receipt(&mut self) -> Option<Message> {
        let all: Vec<&SignedReceipt> = self.invariants.receipts().values().collect();
        let mut forged = (*self.attack_chance.pick(&all)?).clone();
        forged.receipt.price = Amount(forged.receipt.price.0 + 1);
        Some(Message::Receipt(Box::new(forged)))
    }

    /// A huge promise in the name of somebody else.
    fn forged_voucher(&mut self, host: usize) -> Message {
        let owed: Vec<_> = self.invariants.owed().keys().copied().collect();
        let own = self.hosts[host].account;
        let (payer, worker) = self.attack_chance.pick(&owed).copied().unwrap_or((own, own));
        let payee = self.hosts.iter().find(|host| host.account == worker).map(|host| host.address).unwrap_or_default();
        Message::Voucher(Box::new(Voucher {
            payer,
            worker,
            payer_address: self.hosts[host].address,
            payee,
            cumulative: Amount(u128::MAX),
            fees_cumulative: Amount(u128::MAX),
            signature: self.attack_chance.noise(65),
        }))
    }

    /// A change of a card in the name of an editor, or in the attacker's own, who is none.
    fn forged_card(&mut self, host: usize) -> Option<Message> {
        let plan = self.users.plans.first()?;
        let (datanet, editor) = (plan.id, self.hosts[*plan.contributors.first()?].account);
        let body = CardChange { datanet, sequence: 0, previous: Hash::default(), change: self.attack_chance.noise(40) };
        let mut entry = Signed::new(self.network, &self.hosts[host].account_key(), body);
        if self.attack_chance.happens(500_000) {
            entry.account = editor;
        }
        Some(Message::CardChanges(vec![entry]))
    }

    /// A batch or an epoch in the name of another node.
    fn forged_head(&mut self, host: usize) -> Message {
        let key = self.hosts[host].account_key();
        let node = self.hosts[0].id;
        let body = Hash::of(&self.attack_chance.noise(32));
        if self.attack_chance.happens(500_000) {
            let head =
                BatchHead { node, sequence: 0, count: 1, root: body, price: Amount::OPEN, body, body_bytes: 100 };
            let mut signed = Signed::new(self.network, &key, head);
            signed.signature = Signature([7; 64]);
            return Message::Batches(vec![signed]);
        }
        let epoch = 1 + self.attack_chance.below(3);
        let head = EpochHead { epoch, node, receipts_root: body, body, body_bytes: 100, total: Amount::OPEN };
        Message::Epoch(Signed::new(self.network, &key, head))
    }
}
