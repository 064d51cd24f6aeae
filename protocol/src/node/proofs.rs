//! The proofs of falsification that a node found, to be shown to anybody.
//!
//! Invariant: a proof's bytes are in the store before its fact is durable and before a verdict names it; there are at
//! most [`PROOFS_MAX`], and of one account [`PROOFS_PER_ACCUSED_MAX`]: the oldest make room, so that accounts that accuse
//! themselves keep nobody else's proofs out.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{Event, Fact, Node, Out};
use crate::id::{AccountId, Hash};
use crate::limits::{PROOF_MAX_BYTES, PROOFS_MAX, PROOFS_PER_ACCUSED_MAX};
use crate::proof::{Kind, Proof};

/// A proof that this node keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct KeptProof {
    /// Its blob.
    pub proof: Hash,
    /// What is false.
    pub kind: Kind,
    /// Who signed it.
    pub accused: AccountId,
    /// The receipt's id, or the digest of the release or roots.
    pub subject: Hash,
}

#[derive(Default)]
pub(super) struct Proofs {
    kept: Vec<KeptProof>,
}

impl Proofs {
    pub(super) fn apply_kept(&mut self, kept: KeptProof) {
        if self.knows(&kept.proof) {
            return;
        }
        let of_one = self.kept.iter().filter(|one| one.accused == kept.accused).count();
        let oldest = match of_one >= PROOFS_PER_ACCUSED_MAX {
            true => self.kept.iter().position(|one| one.accused == kept.accused),
            false => (self.kept.len() >= PROOFS_MAX).then_some(0),
        };
        if let Some(oldest) = oldest {
            self.kept.remove(oldest);
        }
        self.kept.push(kept);
    }

    fn knows(&self, proof: &Hash) -> bool {
        self.kept.iter().any(|kept| kept.proof == *proof)
    }
}

impl Node {
    /// Keeps a proof for anybody who asks; returns its blob unless it is too long.
    pub(super) fn keep_proof(&mut self, proof: &Proof, out: &mut Out) -> Option<Hash> {
        let bytes = proof.to_bytes();
        let kept = KeptProof {
            proof: Hash::of(&bytes),
            kind: proof.kind(),
            accused: proof.accused(),
            subject: proof.subject(),
        };
        if self.proofs.knows(&kept.proof) {
            return Some(kept.proof);
        }
        if bytes.len() > PROOF_MAX_BYTES {
            return None;
        }
        out.provide(bytes);
        self.record(Fact::ProofKept(kept), out);
        out.event(Event::ProofKept(kept));
        Some(kept.proof)
    }

    /// The proofs of falsification that this node found, the newest last.
    #[must_use]
    pub fn proofs(&self) -> &[KeptProof] {
        &self.proofs.kept
    }
}

#[cfg(test)]
mod tests {
    use super::{AccountId, Hash, KeptProof, Kind, PROOFS_MAX, PROOFS_PER_ACCUSED_MAX, Proofs};

    fn kept(accused: usize, number: usize) -> KeptProof {
        let hash = |parts: [usize; 2]| Hash(*blake3::hash(&parts.map(usize::to_le_bytes).concat()).as_bytes());
        let accused_id = AccountId(hash([accused, 0]).0);
        KeptProof { proof: hash([accused, number + 1]), kind: Kind::Sum, accused: accused_id, subject: hash([1, 1]) }
    }

    #[test]
    fn who_accuses_himself_keeps_nobody_elses_proofs_out() {
        let mut proofs = Proofs::default();
        (0..PROOFS_MAX).for_each(|accused| proofs.apply_kept(kept(accused, 0)));
        proofs.apply_kept(kept(PROOFS_MAX, 0));
        assert_eq!((proofs.kept.len(), proofs.kept[0]), (PROOFS_MAX, kept(1, 0)), "the oldest makes room");
        proofs.apply_kept(kept(PROOFS_MAX, 0));
        assert_eq!(proofs.kept[0], kept(1, 0), "one that is known takes no room again");
        (1..=PROOFS_PER_ACCUSED_MAX).for_each(|number| proofs.apply_kept(kept(PROOFS_MAX, number)));
        let of_one = proofs.kept.iter().filter(|one| one.accused == kept(PROOFS_MAX, 0).accused).count();
        assert_eq!(of_one, PROOFS_PER_ACCUSED_MAX);
        assert!(!proofs.knows(&kept(PROOFS_MAX, 0).proof), "of one account its oldest makes room");
    }
}
