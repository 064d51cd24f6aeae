//! Invariants of a world, checked at each durable fact, at each message that relies on one, and at the end.
//!
//! Invariant of this module: it sees what is made durable and what leaves a machine, and believes no node's own
//! view of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tributary_protocol::batch::{AUDITORS, EpochBody, pair_of};
use tributary_protocol::economy;
use tributary_protocol::envelope::NetworkId;
use tributary_protocol::id::{AccountId, Amount, ChainAddress, Hash, NodeId, ReceiptId, TaskId};
use tributary_protocol::node::Fact;
use tributary_protocol::receipt::{Receipt, SignedReceipt, Voucher, Work};
use tributary_protocol::task::{FineTune, task_id};

use crate::work;

/// Violations that are kept; more say nothing new.
const VIOLATIONS_MAX: usize = 50;

/// Something that must never happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "rule")]
pub enum Violation {
    /// A receipt's payments are not its price.
    MoneyMade {
        /// The receipt.
        receipt: ReceiptId,
        /// The sum of the payments, when it fits.
        paid: Option<Amount>,
        /// The price.
        price: Amount,
    },
    /// A receipt that does not verify was kept.
    BadReceipt {
        /// The receipt.
        receipt: ReceiptId,
        /// Why it does not verify.
        reason: String,
    },
    /// Two receipts for one task.
    TaskPaidTwice {
        /// The task.
        task: TaskId,
    },
    /// Two receipts for one request or question.
    RequestPaidTwice {
        /// The key of the request or question.
        key: Hash,
    },
    /// A payer kept a receipt that belongs to none of its requests.
    PaidForNothing {
        /// The receipt.
        receipt: ReceiptId,
    },
    /// A voucher promises more than the receipts between the two.
    VoucherAboveReceipts {
        /// Who pays.
        payer: AccountId,
        /// Who is paid.
        worker: AccountId,
    },
    /// An epoch's sums are not the fees of its receipts.
    EpochSum {
        /// The epoch.
        epoch: u64,
        /// What it hands out.
        earned: Amount,
        /// The fees of its receipts.
        fees: Amount,
    },
    /// An epoch names a receipt that nobody ever kept.
    EpochInvents {
        /// The epoch.
        epoch: u64,
    },
    /// The chain refused an epoch.
    EpochRefused {
        /// The epoch.
        epoch: u64,
        /// Why.
        reason: String,
    },
    /// A receipt that was durable is gone after a restart.
    ReceiptLost {
        /// The receipt.
        receipt: ReceiptId,
        /// Who lost it.
        node: NodeId,
    },
    /// A receipt was acknowledged or passed on before it was durable.
    NotDurable {
        /// The receipt.
        receipt: ReceiptId,
        /// Who told others of it.
        node: NodeId,
    },
    /// An honest peer was blamed by another.
    HonestBlamed {
        /// Who was blamed.
        peer: NodeId,
        /// For what.
        reason: String,
    },
    /// A result that differs from an honest run was paid.
    LiarPaid {
        /// The receipt.
        receipt: ReceiptId,
    },
    /// The world did not come to rest in time.
    NotSettled {
        /// What was missing.
        missing: Vec<String>,
    },
}

/// What the world has seen so far.
#[derive(Debug)]
pub struct Invariants {
    network: NetworkId,
    offered: BTreeMap<TaskId, FineTune>,
    receipts: BTreeMap<ReceiptId, SignedReceipt>,
    tasks: BTreeMap<TaskId, ReceiptId>,
    settled: BTreeMap<(NodeId, Hash), ReceiptId>,
    settled_receipts: BTreeSet<ReceiptId>,
    owed: BTreeMap<(AccountId, AccountId), (Amount, Amount)>,
    violations: Vec<Violation>,
}

fn add(one: Amount, other: Amount) -> Amount {
    Amount(one.0.saturating_add(other.0))
}

impl Invariants {
    /// Nothing seen yet on this network.
    #[must_use]
    pub fn new(network: NetworkId) -> Self {
        Self {
            network,
            offered: BTreeMap::new(),
            receipts: BTreeMap::new(),
            tasks: BTreeMap::new(),
            settled: BTreeMap::new(),
            settled_receipts: BTreeSet::new(),
            owed: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    /// All receipts that were ever made durable.
    #[must_use]
    pub fn receipts(&self) -> &BTreeMap<ReceiptId, SignedReceipt> {
        &self.receipts
    }

    /// What went wrong.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Requests and questions that were paid.
    #[must_use]
    pub fn paid(&self) -> usize {
        self.settled.len()
    }

    /// Everything owed between two accounts: worker's parts and fees.
    #[must_use]
    pub fn owed(&self) -> &BTreeMap<(AccountId, AccountId), (Amount, Amount)> {
        &self.owed
    }

    /// Notes a violation.
    pub fn report(&mut self, violation: Violation) {
        if self.violations.len() < VIOLATIONS_MAX && !self.violations.contains(&violation) {
            self.violations.push(violation);
        }
    }

    /// Facts became durable on `node`, which works for `account`.
    pub fn persisted(&mut self, node: NodeId, account: AccountId, facts: &[Fact]) {
        for fact in facts {
            match fact {
                Fact::Offered { offer, .. } => {
                    self.offered.insert(task_id(self.network, offer), offer.body.work.clone());
                }
                Fact::Settled { key, receipt } => self.settled(node, *key, *receipt),
                Fact::ReceiptKept(signed) => self.receipt_kept(account, signed),
                Fact::VoucherTaken(voucher) => self.voucher_taken(voucher),
                _ => {}
            }
        }
    }

    fn settled(&mut self, node: NodeId, key: Hash, receipt: ReceiptId) {
        let known = *self.settled.entry((node, key)).or_insert(receipt);
        if known != receipt {
            self.report(Violation::RequestPaidTwice { key });
        }
        if !self.settled_receipts.insert(receipt) && known != receipt {
            self.report(Violation::RequestPaidTwice { key });
        }
    }

    fn receipt_kept(&mut self, account: AccountId, signed: &SignedReceipt) {
        let receipt = &signed.receipt;
        let id = receipt.id();
        let paid = economy::total(&receipt.payments);
        if paid != Some(receipt.price) {
            self.report(Violation::MoneyMade { receipt: id, paid, price: receipt.price });
        }
        let is_audit = receipt.audited().is_some();
        if receipt.payer == account && !is_audit && !self.settled_receipts.contains(&id) {
            self.report(Violation::PaidForNothing { receipt: id });
        }
        if self.receipts.contains_key(&id) {
            return;
        }
        if let Err(error) = signed.verify_offline() {
            self.report(Violation::BadReceipt { receipt: id, reason: error.to_string() });
        }
        if !self.is_honest_work(receipt) {
            self.report(Violation::LiarPaid { receipt: id });
        }
        if self.tasks.insert(receipt.task, id).is_some() {
            self.report(Violation::TaskPaidTwice { task: receipt.task });
        }
        if !is_audit {
            let owed = self.owed.entry((receipt.payer, receipt.worker)).or_default();
            *owed = (add(owed.0, receipt.worker_part), add(owed.1, receipt.fee()));
        }
        self.receipts.insert(id, signed.clone());
    }

    /// Whether a training's receipt pays for what an honest run gives. Answers are paid before they are checked.
    fn is_honest_work(&self, receipt: &Receipt) -> bool {
        let Work::Training { adapter, .. } = &receipt.work else { return true };
        let Some(task) = self.offered.get(&receipt.task) else { return false };
        *adapter == work::adapter_of(&work::checkpoints(task).last().copied().unwrap_or_default())
    }

    fn voucher_taken(&mut self, voucher: &Voucher) {
        let owed = self.owed.get(&(voucher.payer, voucher.worker)).copied().unwrap_or_default();
        if voucher.cumulative > owed.0 || voucher.fees_cumulative > owed.1 {
            self.report(Violation::VoucherAboveReceipts { payer: voucher.payer, worker: voucher.worker });
        }
    }

    /// An epoch reached the chain.
    pub fn epoch_posted(&mut self, body: &EpochBody) {
        let earned = body.earned.iter().fold(Amount::ZERO, |sum, (_, amount)| add(sum, *amount));
        let known: Vec<&SignedReceipt> = body.ids().filter_map(|id| self.receipts.get(id)).collect();
        let fees = known.iter().fold(Amount::ZERO, |sum, signed| add(sum, signed.receipt.fee()));
        let invents = known.len() != body.receipts.len();
        if invents {
            self.report(Violation::EpochInvents { epoch: body.epoch });
        }
        if earned != fees {
            self.report(Violation::EpochSum { epoch: body.epoch, earned, fees });
        }
    }

    /// What two auditors agree on, by the answer's receipt.
    #[must_use]
    pub fn audits(&self) -> BTreeMap<ReceiptId, [&Receipt; AUDITORS]> {
        let mut found: BTreeMap<ReceiptId, Vec<&Receipt>> = BTreeMap::new();
        for receipt in self.receipts.values().map(|signed| &signed.receipt) {
            if let Some(of) = receipt.audited() {
                found.entry(of).or_default().push(receipt);
            }
        }
        let answer = |of: &ReceiptId| self.receipts.get(of).map(|signed| &signed.receipt);
        found.into_iter().filter_map(|(of, found)| Some((of, pair_of(answer(&of)?, &found)?))).collect()
    }

    /// What each address earned by the receipts of payers who pay, computed here from the receipts alone.
    #[must_use]
    pub fn earned(&self, pays: impl Fn(&AccountId) -> bool) -> BTreeMap<ChainAddress, Amount> {
        let mut earned: BTreeMap<ChainAddress, Amount> = BTreeMap::new();
        let receipts = self.receipts.values().filter(|signed| pays(&signed.receipt.payer));
        let payments = receipts.flat_map(|signed| &signed.receipt.payments);
        for payment in payments.filter(|payment| payment.role != economy::PaymentRole::Worker) {
            let sum = earned.entry(payment.to).or_default();
            *sum = add(*sum, payment.amount);
        }
        earned
    }
}

/// The name of a fact's kind, for crash plans and counts.
#[must_use]
pub fn kind_of(fact: &Fact) -> &'static str {
    match fact {
        Fact::Genesis(_) => "genesis",
        Fact::Contribution(_) => "contribution",
        Fact::ShardHeld(_) => "shard_held",
        Fact::Requested(_) => "requested",
        Fact::Offered { .. } => "offered",
        Fact::AwardGiven { .. } => "award_given",
        Fact::Lapsed { .. } => "lapsed",
        Fact::ResultTaken { .. } => "result_taken",
        Fact::ResultChecked { .. } => "result_checked",
        Fact::RequestFailed { .. } => "request_failed",
        Fact::JobWon { .. } => "job_won",
        Fact::JobFinished(_) => "job_finished",
        Fact::JobClosed(_) => "job_closed",
        Fact::ReceiptKept(_) => "receipt_kept",
        Fact::Settled { .. } => "settled",
        Fact::AnswerKept { .. } => "answer_kept",
        Fact::AnswerVerdict { .. } => "answer_verdict",
        Fact::ProofKept(_) => "proof_kept",
        Fact::VoucherTaken(_) => "voucher_taken",
        Fact::Released(_) => "released",
        Fact::BatchSealed(_) => "batch_sealed",
        Fact::BatchRead(_) => "batch_read",
        Fact::EpochClosing { .. } => "epoch_closing",
        Fact::EpochPosted(_) => "epoch_posted",
        Fact::EpochAbandoned(_) => "epoch_abandoned",
        Fact::EpochChecked { .. } => "epoch_checked",
        Fact::BatchDue(_) => "batch_due",
        Fact::Witnessed(_) => "witnessed",
        Fact::ResultRefuted(_) => "result_refuted",
        Fact::VerifierPayout { .. } => "verifier_payout",
        Fact::CardChanged(_) => "card_changed",
        Fact::Noted(_) => "noted",
        Fact::AuditDrawn { .. } => "audit_drawn",
    }
}
