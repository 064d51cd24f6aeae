//! Whether the world has come to rest: everybody got what he wanted and all honest nodes agree.
//!
//! Invariant: rest is judged by what nodes hold, compared with what was made durable anywhere, not by what they
//! say of each other.

use std::collections::{BTreeMap, BTreeSet};

use tributary_protocol::id::{AccountId, Amount, ChainAddress, ReceiptId};
use tributary_protocol::node::Node;
use tributary_protocol::receipt::SignedReceipt;

use super::World;
use super::cards::CHANGES_EACH;
use super::users::Plan;
use crate::behaviour::Behaviour;
use crate::host::Host;
use crate::invariant::Violation;

/// Missing things that are named; more say nothing new.
const MISSING_MAX: usize = 12;

impl World {
    pub(super) fn examine(&mut self) {
        let faulty = self.elapsed_ms() < self.scenario.faults.until_ms;
        if faulty || !self.users.are_done() || !self.missing().is_empty() {
            return;
        }
        self.settled_ms = Some(self.elapsed_ms());
        let earned = self.invariants.earned(|payer| !self.is_debtor(payer));
        let touched = self.audited_payees();
        let others = |sums: &BTreeMap<ChainAddress, Amount>| -> BTreeMap<ChainAddress, Amount> {
            sums.iter().filter(|(payee, _)| !touched.contains(*payee)).map(|(payee, sum)| (*payee, *sum)).collect()
        };
        let total = |sums: &BTreeMap<_, Amount>| sums.values().fold(Amount::ZERO, |sum, one| Amount(sum.0 + one.0));
        let balances = self.chain.balances();
        if total(&earned) != total(balances) || others(&earned) != others(balances) {
            let (earned, fees) = (total(balances), total(&earned));
            let epoch = self.chain.newest().map_or(0, |body| body.epoch);
            self.invariants.report(Violation::EpochSum { epoch, earned, fees });
        }
    }

    /// Whom an audit gives to or takes from: nobody else is touched.
    fn audited_payees(&self) -> BTreeSet<ChainAddress> {
        let audits = self.invariants.audits();
        let answers = audits.keys().filter_map(|of| self.invariants.receipts().get(of));
        let paid = answers.flat_map(|signed| &signed.receipt.payments).map(|payment| payment.to);
        let found = audits.values().flatten().flat_map(|audit| &audit.shares).map(|share| share.payout);
        paid.chain(found).collect()
    }

    /// Whether an account never pays.
    fn is_debtor(&self, account: &AccountId) -> bool {
        self.hosts.iter().any(|host| host.account == *account && host.behaviour == Behaviour::Unfunded)
    }

    fn nodes(&self) -> impl Iterator<Item = (&Host, Option<&Node>)> {
        self.hosts.iter().filter(|host| host.has_node()).map(|host| (host, host.node.as_ref()))
    }

    /// What is missing to rest, in words.
    pub(super) fn missing(&self) -> Vec<String> {
        let mut missing = self.users.waiting();
        let newest = self.chain.newest();
        let every: BTreeSet<ReceiptId> = self.invariants.receipts().keys().copied().collect();
        let counted: BTreeSet<ReceiptId> = newest.map(|body| body.ids().copied().collect()).unwrap_or_default();
        let audited = |id: &ReceiptId| self.invariants.receipts().get(id).and_then(|signed| signed.receipt.audited());
        let (settled, on_chain): (BTreeSet<_>, BTreeSet<_>) = counted.into_iter().partition(|id| audited(id).is_some());
        let settled: Vec<ReceiptId> = settled.iter().filter_map(audited).collect();
        for of in self.invariants.audits().into_keys().filter(|of| !settled.contains(of)) {
            missing.push(format!("the audit of {of} on the chain"));
        }
        let receipts = self.invariants.receipts().iter();
        let counts =
            |signed: &SignedReceipt| signed.receipt.audited().is_none() && !self.is_debtor(&signed.receipt.payer);
        let funded: BTreeSet<ReceiptId> = receipts.filter(|(_, signed)| counts(signed)).map(|(id, _)| *id).collect();
        if on_chain != funded {
            missing.push(format!("{} of {} funded receipts on the chain", on_chain.len(), funded.len()));
        }
        for (host, node) in self.nodes() {
            if missing.len() >= MISSING_MAX {
                break;
            }
            let name = format!("{:?} {}", host.part, host.place);
            let Some(node) = node else {
                missing.push(format!("{name} is down"));
                continue;
            };
            missing.extend(self.missing_at(host, node, &every).into_iter().map(|what| format!("{name}: {what}")));
        }
        missing
    }

    /// The cards that lack changes; with all of them everybody has the same.
    fn missing_cards(&self, node: &Node) -> Vec<String> {
        let whole = |plan: &Plan| {
            let Some(logs) = node.card_logs(&plan.id) else { return false };
            plan.contributors.iter().all(|place| logs.next_place(&self.hosts[*place].account).0 == CHANGES_EACH)
        };
        let plans = self.users.plans.iter().filter(|plan| !whole(plan));
        plans.map(|plan| format!("changes of the card of datanet {}", plan.id.short())).collect()
    }

    fn missing_at(&self, host: &Host, node: &Node, every: &BTreeSet<ReceiptId>) -> Vec<String> {
        let mut missing = Vec::new();
        let held: BTreeSet<ReceiptId> = node.receipts().map(|(id, _)| *id).collect();
        if held != *every {
            missing.push(format!("{} of {} receipts", held.len(), every.len()));
        }
        let newest = self.chain.newest().map_or(0, |body| body.epoch);
        let epochs = node.epochs();
        if newest > 0 && !epochs.iter().any(|epoch| epoch.epoch == newest) {
            missing.push(format!("epoch {newest}"));
        }
        if let Some(disputed) = epochs.iter().find(|epoch| !epoch.agrees) {
            missing.push(format!("agreement on epoch {}", disputed.epoch));
        }
        for plan in &self.users.plans {
            let reference = self.hosts.first().and_then(|poster| poster.node.as_ref()?.datanet(&plan.id));
            let here = node.datanet(&plan.id);
            if here.is_none() || here.map(|datanet| datanet.head()) != reference.map(|datanet| datanet.head()) {
                missing.push(format!("the head of datanet {}", plan.id.short()));
            }
        }
        missing.extend(self.missing_cards(node));
        if host.is_honest() && !node.jobs().is_empty() {
            missing.push(format!("pay for {} tasks", node.jobs().len()));
        }
        let promised: BTreeMap<_, _> =
            node.vouchers().map(|voucher| (voucher.payer, (voucher.cumulative, voucher.fees_cumulative))).collect();
        let owed = self.invariants.owed().iter().filter(|((_, worker), _)| *worker == host.account);
        for ((payer, _), sums) in owed {
            if !self.is_debtor(payer) && promised.get(payer) != Some(sums) {
                missing.push(format!("the voucher of {}", payer.short()));
            }
        }
        missing
    }
}
