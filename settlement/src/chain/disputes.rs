//! Showing that a pending batch is false, in one step each.
//!
//! Invariant: a challenge that the contract refuses with `NotFraud` cost its sender gas and changed nothing.

use alloy::primitives::{B256, U256};
use alloy::sol_types::SolCall;

use super::{Batch, Chain, ChainError, Confirmation, evm_address};
use crate::anchor::{EarningsProof, ReceiptLeaf, ReceiptProof, SumNode};
use crate::contracts::Anchor;

impl Chain {
    /// The guardian's veto of a pending batch; its bond is burnt.
    pub async fn veto(&self, batch: &Batch) -> Result<Confirmation, ChainError> {
        let call = Anchor::vetoCall { batch: batch.to_contract() };
        self.send("veto", self.deployment()?.anchor, call.abi_encode()).await
    }

    /// Shows that a pending batch gives an account less than the newest final one; half the bond is the reward.
    pub async fn challenge_decrease(
        &self,
        batch: &Batch,
        older: &EarningsProof,
        newer: &EarningsProof,
    ) -> Result<Confirmation, ChainError> {
        let (older, newer) = (anchor_leaf(older), anchor_leaf(newer));
        let call = Anchor::challengeDecreaseCall { batch: batch.to_contract(), older, newer };
        self.send("challenge", self.deployment()?.anchor, call.abi_encode()).await
    }

    /// Shows that a pending batch holds one receipt at two places.
    pub async fn challenge_duplicate(
        &self,
        batch: &Batch,
        a: &ReceiptProof,
        b: &ReceiptProof,
    ) -> Result<Confirmation, ChainError> {
        let (a, b) = (anchor_receipt(a), anchor_receipt(b));
        let call = Anchor::challengeDuplicateCall { batch: batch.to_contract(), a, b };
        self.send("challenge", self.deployment()?.anchor, call.abi_encode()).await
    }

    /// Shows that a receipt of a pending batch carries a false signature, the worker's or the payer's.
    pub async fn challenge_signature(
        &self,
        batch: &Batch,
        receipt: &ReceiptProof,
        of_worker: bool,
    ) -> Result<Confirmation, ChainError> {
        let receipt = anchor_receipt(receipt);
        let call = Anchor::challengeSignatureCall { batch: batch.to_contract(), receipt, ofWorker: of_worker };
        self.send("challenge", self.deployment()?.anchor, call.abi_encode()).await
    }

    /// Shows that a pending batch leaves out an account of the newest final one: `absence` is what its posted tree
    /// gives for that account.
    pub async fn challenge_omission(
        &self,
        batch: &Batch,
        older: &EarningsProof,
        absence: &(EarningsProof, EarningsProof),
    ) -> Result<Confirmation, ChainError> {
        let (older, before, next) = (anchor_leaf(older), anchor_leaf(&absence.0), anchor_leaf(&absence.1));
        let call = Anchor::challengeOmissionCall { batch: batch.to_contract(), older, before, next };
        self.send("challenge", self.deployment()?.anchor, call.abi_encode()).await
    }

    /// Shows that the accounts of a pending batch do not rise: `disorder` is what its posted tree gives.
    pub async fn challenge_order(
        &self,
        batch: &Batch,
        disorder: &(EarningsProof, EarningsProof),
    ) -> Result<Confirmation, ChainError> {
        let (left, right) = (anchor_leaf(&disorder.0), anchor_leaf(&disorder.1));
        let call = Anchor::challengeOrderCall { batch: batch.to_contract(), left, right };
        self.send("challenge", self.deployment()?.anchor, call.abi_encode()).await
    }
}

fn anchor_leaf(proof: &EarningsProof) -> Anchor::LeafProof {
    let sibling = |node: &SumNode| Anchor::Sibling { hash: B256::new(node.hash), sum: node.sum.0 };
    Anchor::LeafProof {
        account: evm_address(proof.account),
        cumulative: proof.cumulative.0,
        index: U256::from(proof.index),
        siblings: proof.siblings.iter().map(sibling).collect(),
    }
}

fn anchor_receipt(proof: &ReceiptProof) -> Anchor::ReceiptProof {
    let ReceiptLeaf { id, digest, payer_key, payer_signature, worker_key, worker_signature } = proof.leaf;
    let (payer_r, payer_s) = payer_signature.split_at(32);
    let (worker_r, worker_s) = worker_signature.split_at(32);
    Anchor::ReceiptProof {
        leaf: Anchor::ReceiptLeaf {
            id: B256::new(id),
            digest: B256::new(digest),
            payerKey: B256::new(payer_key),
            payerR: B256::from_slice(payer_r),
            payerS: B256::from_slice(payer_s),
            workerKey: B256::new(worker_key),
            workerR: B256::from_slice(worker_r),
            workerS: B256::from_slice(worker_s),
        },
        index: U256::from(proof.index),
        siblings: proof.siblings.iter().copied().map(B256::new).collect(),
    }
}
