//! What a node shows of itself: read-only views for users, pages and tests.

use super::requester::RequestView;
use super::{AskView, Node, PeerView};
use crate::card::CardLogs;
use crate::datanet::Datanet;
use crate::envelope::Signed;
use crate::id::{AccountId, Amount, ChainAddress, DatanetId, Hash, NodeId, ReceiptId, TaskId};
use crate::message::{Audit, Heartbeat, Measurement, PeerRecord, Release};
use crate::receipt::{SignedReceipt, Voucher, Work};
use crate::task::Award;
use crate::verification::Verdict;

/// What all receipts so far promise to one worker, paid or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debt {
    /// To whom.
    pub worker: AccountId,
    /// Where it is paid.
    pub payee: ChainAddress,
    /// The worker's parts.
    pub worker_part: Amount,
    /// Fees beside them.
    pub fees: Amount,
}

/// An epoch this node knows.
#[derive(Debug, Clone)]
pub struct EpochView {
    /// Its number.
    pub epoch: u64,
    /// The blob of its body.
    pub body: Hash,
    /// The sum of all earnings so far.
    pub total: Amount,
    /// The Merkle root over its receipts.
    pub receipts_root: Hash,
    /// Whether this node's own sums agree.
    pub agrees: bool,
}

impl Node {
    /// The node's own record.
    #[must_use]
    pub fn record_view(&self) -> PeerRecord {
        self.own_record()
    }

    /// Where the account is paid.
    #[must_use]
    pub fn chain_address(&self) -> ChainAddress {
        self.config.chain_address
    }

    /// The peers known.
    pub fn peers(&self) -> impl Iterator<Item = (&NodeId, &PeerView)> {
        self.peers.iter()
    }

    /// One datanet.
    #[must_use]
    pub fn datanet(&self, id: &DatanetId) -> Option<&Datanet> {
        self.datanets.get(id)
    }

    /// All datanets.
    pub fn datanets(&self) -> impl Iterator<Item = &Datanet> {
        self.datanets.iter()
    }

    /// The changes of a datanet's card.
    #[must_use]
    pub fn card_logs(&self, id: &DatanetId) -> Option<&CardLogs> {
        self.cards.get(id)
    }

    /// Whether a shard is in the store.
    #[must_use]
    pub fn holds(&self, blob: &Hash) -> bool {
        self.datanets.is_held(blob)
    }

    /// One request of this node.
    #[must_use]
    pub fn request(&self, key: &Hash) -> Option<RequestView> {
        self.requester.requests.get(key).map(super::requester::Request::view)
    }

    /// The curve of a request's training, by step, as its worker tells it.
    #[must_use]
    pub fn curve(&self, key: &Hash) -> Vec<Measurement> {
        self.requester.requests.get(key).map(|request| request.curve.values().copied().collect()).unwrap_or_default()
    }

    /// All requests of this node, by key.
    #[must_use]
    pub fn requests(&self) -> Vec<(Hash, RequestView)> {
        self.requester.requests.iter().map(|(key, request)| (*key, request.view())).collect()
    }

    /// The tasks this node works on: award, progress, and whether the result is committed.
    #[must_use]
    pub fn jobs(&self) -> Vec<(TaskId, Award, Option<Heartbeat>, bool)> {
        let jobs = self.worker.jobs.iter();
        jobs.map(|(task, job)| (*task, job.award.clone(), job.progress.clone(), job.result.is_some())).collect()
    }

    /// One question of this node.
    #[must_use]
    pub fn ask_view(&self, key: &Hash) -> Option<AskView> {
        self.asker.view(key).filter(|view| self.is_of_answer(view))
    }

    /// What recomputing an answer of this node needs, unless newer ones took its room.
    #[must_use]
    pub fn audit_of(&self, key: &Hash) -> Option<&Audit> {
        self.audits.of(key)
    }

    /// Who found what an answer would have paid, for settlement, as far as its payer signed it.
    #[must_use]
    pub fn auditors_of(&self, answer: &ReceiptId) -> Vec<AccountId> {
        self.receipts.audits_of(answer).into_iter().map(|found| found.worker).collect()
    }

    /// The node that works for an account, as far as it is known.
    #[must_use]
    pub fn node_of(&self, account: &AccountId) -> Option<NodeId> {
        self.peers.node_of(account)
    }

    /// The fresh peers that serve an adapter, which therefore have its files.
    #[must_use]
    pub fn peers_serving(&self, now_ms: u64, adapter: &Hash) -> Vec<NodeId> {
        self.peers.fresh(now_ms, |record| record.serving.contains(adapter))
    }

    /// Whether it is a question's: trainings are settled by receipts too.
    fn is_of_answer(&self, view: &AskView) -> bool {
        let receipt = view.receipt.and_then(|id| self.receipt_of(&id));
        !receipt.is_some_and(|signed| matches!(signed.receipt.work, Work::Training { .. }))
    }

    /// All questions of this node, by key.
    pub fn asks(&self) -> impl Iterator<Item = (Hash, AskView)> {
        self.asker.keys().filter_map(|key| Some((key, self.ask_view(&key)?)))
    }

    /// Findings about this node's answers.
    pub fn answer_verdicts(&self) -> impl Iterator<Item = &Signed<Verdict>> {
        self.asker.verdicts()
    }

    /// One release.
    #[must_use]
    pub fn release_of(&self, adapter: &Hash) -> Option<&Signed<Release>> {
        self.worker.release(adapter)
    }

    /// All releases known.
    pub fn releases(&self) -> impl Iterator<Item = &Signed<Release>> {
        self.worker.releases()
    }

    /// One receipt.
    #[must_use]
    pub fn receipt_of(&self, id: &ReceiptId) -> Option<&SignedReceipt> {
        self.receipts.get(id)
    }

    /// All receipts known, by id.
    pub fn receipts(&self) -> impl Iterator<Item = (&ReceiptId, &SignedReceipt)> {
        self.receipts.iter()
    }

    /// The newest promises to pay this node holds.
    pub fn vouchers(&self) -> impl Iterator<Item = &Voucher> {
        self.receipts.vouchers()
    }

    /// What this node's receipts promise to each worker.
    #[must_use]
    pub fn debts(&self) -> Vec<Debt> {
        let debt = |(worker, owed): (&AccountId, &super::receipts::Owed)| Debt {
            worker: *worker,
            payee: owed.payee,
            worker_part: owed.worker_part,
            fees: owed.fees,
        };
        self.receipts.owed_to().iter().map(debt).collect()
    }

    /// The epochs this node has recomputed or posted.
    #[must_use]
    pub fn epochs(&self) -> Vec<EpochView> {
        self.batches
            .epochs()
            .iter()
            .map(|((epoch, _), (head, agrees))| EpochView {
                epoch: *epoch,
                body: head.body.body,
                total: head.body.total,
                receipts_root: head.body.receipts_root,
                agrees: *agrees,
            })
            .collect()
    }
}
