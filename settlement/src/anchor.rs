//! What an epoch commits to: the Merkle-sum tree of earnings, hash for hash as the contract `SumTree` checks it, and
//! the tree of receipts.
//!
//! Invariant: an earnings tree's total is the sum of its leaves, and a proof holds for exactly one account, amount
//! and place under one (root, total). The leaves of a built tree rise by account, so it is a function of its ledger
//! alone; a tree as posted may break that, which `disorder` shows.

mod receipts;

use std::collections::BTreeMap;

use alloy::primitives::{B256, U256, keccak256};
use alloy::sol_types::SolValue;
use serde::{Deserialize, Serialize};
use tributary_protocol::id::{Amount, ChainAddress};

pub use receipts::{ReceiptLeaf, ReceiptProof, ReceiptTree};

/// Height of a tree at most, as in the contracts.
pub const MAX_TREE_DEPTH: usize = 32;

/// Why there is no tree or proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The earnings together do not fit 128 bits.
    #[error("the earnings sum above 2^128")]
    Overflow,
    /// The zero address earns nothing: its leaf would be the empty one.
    #[error("the zero address cannot earn")]
    ZeroAccount,
}

/// A node beside a path, with its sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumNode {
    /// The node's hash, 32 bytes.
    #[serde(with = "hex_bytes")]
    pub hash: [u8; 32],
    /// The sum below it.
    pub sum: Amount,
}

const EMPTY: SumNode = SumNode { hash: [0; 32], sum: Amount::ZERO };

/// That an account earned an amount, under one (root, total).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarningsProof {
    /// Who earned.
    pub account: ChainAddress,
    /// How much, since the beginning.
    pub cumulative: Amount,
    /// The leaf's place from the left.
    pub index: u64,
    /// The nodes beside the path, bottom first.
    pub siblings: Vec<SumNode>,
}

impl EarningsProof {
    /// The root and total that follow from this proof; `None` when a sum overflows, or depth or index is out of range.
    #[must_use]
    pub fn root(&self) -> Option<SumNode> {
        let depth = self.siblings.len();
        if depth > MAX_TREE_DEPTH || self.index >> depth != 0 {
            return None;
        }
        let leaf = leaf(self.account, self.cumulative);
        let climb = |node: SumNode, (height, beside): (usize, &SumNode)| match self.index >> height & 1 {
            0 => parent(&node, beside),
            _ => parent(beside, &node),
        };
        self.siblings.iter().enumerate().try_fold(leaf, climb)
    }

    /// Whether the chain would accept this proof against `root` and `total`.
    #[must_use]
    pub fn holds(&self, root: &[u8; 32], total: Amount) -> bool {
        self.root().is_some_and(|node| node.hash == *root && node.sum == total)
    }
}

/// The earnings of all accounts since the beginning, as one epoch commits to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochTree {
    accounts: Vec<ChainAddress>,
    amounts: Vec<Amount>,
    /// Bottom first; each level is half of the one below, down to the root alone.
    levels: Vec<Vec<SumNode>>,
}

impl EpochTree {
    /// The tree of a ledger.
    pub fn build(earnings: &BTreeMap<ChainAddress, Amount>) -> Result<Self, TreeError> {
        let leaves: Vec<_> = earnings.iter().map(|(account, amount)| (*account, *amount)).collect();
        if earnings.contains_key(&ChainAddress::default()) {
            return Err(TreeError::ZeroAccount);
        }
        Self::as_posted(&leaves)
    }

    /// The tree of the leaves somebody published, in his order, for finding what is wrong with it.
    pub fn as_posted(leaves: &[(ChainAddress, Amount)]) -> Result<Self, TreeError> {
        let (accounts, amounts) = leaves.iter().copied().unzip();
        let nodes = leaves.iter().map(|(account, amount)| leaf(*account, *amount)).collect();
        let levels = levels(nodes, EMPTY, |left, right| parent(left, right).ok_or(TreeError::Overflow))?;
        Ok(Self { accounts, amounts, levels })
    }

    fn top(&self) -> SumNode {
        self.levels.last().and_then(|level| level.first()).copied().unwrap_or(EMPTY)
    }

    /// The root's hash, which is posted.
    #[must_use]
    pub fn root(&self) -> [u8; 32] {
        self.top().hash
    }

    /// The sum of all earnings, which is posted beside the root.
    #[must_use]
    pub fn total(&self) -> Amount {
        self.top().sum
    }

    /// The proof that `account` claims with; `None` when it earned nothing.
    #[must_use]
    pub fn proof(&self, account: &ChainAddress) -> Option<EarningsProof> {
        let sorted = self.accounts.binary_search(account).ok();
        let place = sorted.or_else(|| self.accounts.iter().position(|other| other == account))?;
        self.proof_at(place)
    }

    /// The proofs of all accounts, in the tree's order.
    pub fn proofs(&self) -> impl Iterator<Item = EarningsProof> + '_ {
        (0..self.accounts.len()).filter_map(|place| self.proof_at(place))
    }

    /// Two neighbours between which `account` would have to stand, as the contract wants them: at an edge both are
    /// the same leaf. `None` when the account is there, or the tree is in disorder around its place.
    #[must_use]
    pub fn absence(&self, account: &ChainAddress) -> Option<(EarningsProof, EarningsProof)> {
        let next = self.accounts.binary_search(account).err()?;
        let width = self.levels.first().map_or(0, Vec::len);
        let places = if next == 0 { (0, 0) } else { (next - 1, next.min(width.saturating_sub(1))) };
        Some((self.proof_at(places.0)?, self.proof_at(places.1)?))
    }

    /// The first two neighbours of which the left account is not the lower one.
    #[must_use]
    pub fn disorder(&self) -> Option<(EarningsProof, EarningsProof)> {
        let place = self.accounts.windows(2).position(|pair| matches!(pair, [left, right] if left >= right))?;
        Some((self.proof_at(place)?, self.proof_at(place + 1)?))
    }

    /// The proof of the leaf at a place, which may be one of the empty ones that fill the tree up.
    fn proof_at(&self, place: usize) -> Option<EarningsProof> {
        if place >= self.levels.first()?.len() {
            return None;
        }
        let account = self.accounts.get(place).copied().unwrap_or_default();
        let cumulative = self.amounts.get(place).copied().unwrap_or_default();
        let siblings = siblings(&self.levels, place)?;
        Some(EarningsProof { account, cumulative, index: place as u64, siblings })
    }
}

fn leaf(account: ChainAddress, cumulative: Amount) -> SumNode {
    let inner = keccak256((alloy::primitives::Address::from(account.0), U256::from(cumulative.0)).abi_encode());
    let empty = account == ChainAddress::default() && cumulative == Amount::ZERO;
    SumNode { hash: if empty { EMPTY.hash } else { keccak256(inner).0 }, sum: cumulative }
}

fn parent(left: &SumNode, right: &SumNode) -> Option<SumNode> {
    let words =
        (B256::from(left.hash), U256::from(left.sum.0), B256::from(right.hash), U256::from(right.sum.0)).abi_encode();
    Some(SumNode { hash: keccak256(words).0, sum: left.sum.checked_add(right.sum)? })
}

/// All levels over `leaves`, filled up with `empty` to a power of two; one empty node for no leaf.
fn levels<N: Clone, E>(mut leaves: Vec<N>, empty: N, join: impl Fn(&N, &N) -> Result<N, E>) -> Result<Vec<Vec<N>>, E> {
    leaves.resize(leaves.len().next_power_of_two(), empty);
    let mut levels = vec![leaves];
    while let Some(level) = levels.last().filter(|level| level.len() > 1) {
        let pairs = level.chunks_exact(2).filter_map(|pair| Some((pair.first()?, pair.get(1)?)));
        let above = pairs.map(|(left, right)| join(left, right)).collect::<Result<Vec<_>, _>>()?;
        levels.push(above);
    }
    Ok(levels)
}

/// The nodes beside the path from `place`, bottom first.
fn siblings<N: Clone>(levels: &[Vec<N>], place: usize) -> Option<Vec<N>> {
    let below_root = levels.split_last()?.1;
    below_root.iter().enumerate().map(|(height, level)| level.get((place >> height) ^ 1).cloned()).collect()
}

/// Hashes as hexadecimal text in JSON.
pub(crate) mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&hex::encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(serde::de::Error::custom)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, Strategy, any, proptest};
    use proptest::{collection, prop_assert, prop_assert_eq};

    fn ledgers() -> impl Strategy<Value = BTreeMap<ChainAddress, Amount>> {
        let account = any::<[u8; 20]>().prop_filter("the zero address cannot earn", |bytes| *bytes != [0; 20]);
        collection::btree_map(account.prop_map(ChainAddress), any::<u64>().prop_map(|n| Amount(u128::from(n))), 0..40)
    }

    proptest! {
        // Each case hashes some thousand nodes, without optimisation in a test build.
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_proof_holds_and_no_other_amount_does(ledger in ledgers(), change in 1..u128::from(u64::MAX)) {
            let tree = EpochTree::build(&ledger).unwrap();
            let sum = ledger.values().map(|amount| amount.0).sum::<u128>();
            prop_assert_eq!(tree.total(), Amount(sum));
            for (account, amount) in &ledger {
                let proof = tree.proof(account).unwrap();
                prop_assert_eq!(proof.cumulative, *amount);
                prop_assert!(proof.holds(&tree.root(), tree.total()));
                prop_assert!(!proof.holds(&tree.root(), Amount(tree.total().0 + change)));
                let inflated = EarningsProof { cumulative: Amount(amount.0 + change), ..proof.clone() };
                prop_assert!(!inflated.holds(&tree.root(), tree.total()));
                prop_assert!(!inflated.holds(&tree.root(), Amount(tree.total().0 + change)));
                let moved = EarningsProof { index: proof.index ^ 1, ..proof };
                prop_assert!(!moved.holds(&tree.root(), tree.total()));
            }
        }

        #[test]
        fn any_changed_amount_changes_the_root(ledger in ledgers(), pick in any::<usize>(), change in 1..1_000_u128) {
            if ledger.is_empty() {
                return Ok(());
            }
            let account = *ledger.keys().nth(pick % ledger.len()).unwrap();
            let mut changed = ledger.clone();
            changed.entry(account).and_modify(|amount| amount.0 += change);
            let (before, after) = (EpochTree::build(&ledger).unwrap(), EpochTree::build(&changed).unwrap());
            prop_assert!(before.root() != after.root());
            prop_assert!(!before.proof(&account).unwrap().holds(&after.root(), after.total()));
        }
    }

    /// The same worked example stands in the contracts' own tests.
    #[test]
    fn the_root_is_the_contracts_vector() {
        let account = |low: u16| {
            let mut bytes = [0; 20];
            bytes[18..].copy_from_slice(&low.to_be_bytes());
            ChainAddress(bytes)
        };
        let ledger = [(0x1111, 100), (0x2222, 200), (0x3333, 300)].map(|(low, atto)| (account(low), Amount(atto)));
        let tree = EpochTree::build(&ledger.into()).unwrap();
        assert_eq!(hex::encode(tree.root()), "4e7f9feedf5ae5a28646d81e1901da0ed03737e2e611c5d8f44a5471277a712c");
        assert_eq!(tree.total(), Amount(600));
    }

    #[test]
    fn edges_are_as_the_contract_says() {
        let none = EpochTree::build(&BTreeMap::new()).unwrap();
        assert_eq!((none.root(), none.total()), ([0; 32], Amount::ZERO));
        let account = ChainAddress([7; 20]);
        let one = EpochTree::build(&BTreeMap::from([(account, Amount(5))])).unwrap();
        assert_eq!(one.root(), leaf(account, Amount(5)).hash);
        assert!(one.proof(&account).unwrap().siblings.is_empty());
        assert_eq!(one.proof(&ChainAddress([8; 20])), None);

        let zero = EpochTree::build(&BTreeMap::from([(ChainAddress::default(), Amount(5))]));
        assert_eq!(zero, Err(TreeError::ZeroAccount));
        let huge = BTreeMap::from([(account, Amount(u128::MAX)), (ChainAddress([8; 20]), Amount(1))]);
        assert_eq!(EpochTree::build(&huge), Err(TreeError::Overflow));
        let proof = EarningsProof { account, cumulative: Amount(1), index: 0, siblings: vec![EMPTY; 33] };
        assert_eq!(proof.root(), None);
        let outside = EarningsProof { index: 2, siblings: vec![EMPTY; 1], ..proof };
        assert_eq!(outside.root(), None);
    }
}
