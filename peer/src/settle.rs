//! Money: deposits, vouchers, epochs and claims on the settlement chain.
//!
//! Invariant: a voucher is signed only once its amount lies in escrow and its payer's account is bound to the address
//! that pays, so that everybody can tell on the chain whose fees arrived; whatever was sent is computed from the
//! chain's own state first, so doing a step again pays nothing twice. Without a chain the node works, and what
//! it earns stands in its receipts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ed25519_dalek::{Signer, SigningKey};
use tributary_protocol::batch::{Anchored, EpochBody};
use tributary_protocol::id::{AccountId, Amount, ChainAddress, Hash, Signature};
use tributary_protocol::node::{FeeStream, Funding};
use tributary_protocol::receipt::{SignedReceipt, Voucher};
use tributary_protocol::wire;
use tributary_settlement::anchor::{EpochTree, ReceiptLeaf, ReceiptTree};
use tributary_settlement::chain::{
    Batch, Chain, ChainError, ChainKey, Epoch, SignedVoucher, Totals, Voucher as ChainVoucher,
};
use tributary_settlement::queue::{Queue, QueueError};

use crate::home::{ChainNotice, Keys};

/// Why money did not move.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The node was started without a chain.
    #[error("this node uses no settlement chain")]
    NoChain,
    /// The chain refused or cannot be reached.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The queue's file cannot be used.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The fees of this epoch are not in the distributor yet: workers have vouchers to redeem.
    #[error("{} OPEN of fees are in the distributor, the epoch pays {} OPEN", have.to_open(), need.to_open())]
    NotFunded {
        /// What the epoch pays in all.
        need: Amount,
        /// What arrived.
        have: Amount,
    },
    /// Somebody else's sums stand or wait on the chain under this number; they are not completed for them.
    #[error("epoch {0} on the chain is not this node's: its sums are others")]
    ForeignEpoch(u64),
    /// Sums that do not fit.
    #[error("amounts overflow")]
    Overflow,
}

/// How long an epoch's challenge window is waited for before the step is left to the next try.
const FINALIZE_WAIT: Duration = Duration::from_secs(20);
const FINALIZE_POLL: Duration = Duration::from_millis(250);

/// One voucher stream per payer and worker.
const STREAM: [u8; 32] = [0; 32];
/// Bindings that are remembered: more than a large network's, in a few megabytes.
const FIRST_BOUND_MAX: usize = 65_536;

/// The node's side of the settlement chain.
pub struct Settlement {
    notice: Option<ChainNotice>,
    key: [u8; 32],
    account_key: SigningKey,
    bound: AtomicBool,
    /// Where accounts were bound first, which never changes.
    first_bound: std::sync::Mutex<BTreeMap<AccountId, ChainAddress>>,
    queue: PathBuf,
    chain: tokio::sync::Mutex<Option<Chain>>,
    turn: tokio::sync::Mutex<()>,
}

fn chain_voucher(voucher: &Voucher) -> ChainVoucher {
    ChainVoucher {
        payee: voucher.payee,
        stream: STREAM,
        cumulative: voucher.cumulative,
        fees_cumulative: voucher.fees_cumulative,
    }
}

fn signed_voucher(voucher: &Voucher) -> Option<SignedVoucher> {
    let signature = voucher.signature.as_slice().try_into().ok()?;
    Some(SignedVoucher { voucher: chain_voucher(voucher), signature })
}

/// The earnings tree of an epoch.
fn earnings(body: &EpochBody) -> Result<EpochTree, SettleError> {
    let ledger: BTreeMap<ChainAddress, Amount> = body.earned.iter().copied().collect();
    Ok(EpochTree::build(&ledger).map_err(ChainError::from)?)
}

impl Settlement {
    /// The chain of `notice`, used with these keys; `queue` is the file of transactions under way.
    #[must_use]
    pub fn new(notice: Option<ChainNotice>, keys: &Keys, queue: &Path) -> Self {
        Self {
            notice,
            key: keys.chain,
            account_key: keys.account.clone(),
            bound: AtomicBool::new(false),
            first_bound: std::sync::Mutex::default(),
            queue: queue.to_owned(),
            chain: tokio::sync::Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Where the chain is.
    #[must_use]
    pub fn notice(&self) -> Option<&ChainNotice> {
        self.notice.as_ref()
    }

    /// The chain, connected on first use; what an earlier process left under way is seen through first.
    ///
    /// # Errors
    /// When there is none or it cannot be reached.
    pub async fn chain(&self) -> Result<Chain, SettleError> {
        let notice = self.notice.as_ref().ok_or(SettleError::NoChain)?;
        let mut connected = self.chain.lock().await;
        if let Some(chain) = connected.as_ref() {
            return Ok(chain.clone());
        }
        let chain = Chain::connect(&notice.url, ChainKey::from_bytes(self.key)?).await?;
        let chain = chain.with_queue(Queue::open(&self.queue)?).at(notice.deployment)?;
        chain.check_deployment().await?;
        chain.resume().await?;
        *connected = Some(chain.clone());
        Ok(chain)
    }

    /// Puts what is missing into escrow, then signs.
    ///
    /// # Errors
    /// When the chain is down or the payer's funds do not suffice.
    pub async fn sign_voucher(&self, mut voucher: Voucher) -> Result<Voucher, SettleError> {
        // Fees count for the account that is bound to the address they come from.
        self.bind().await?;
        let chain = self.chain().await?;
        let _turn = self.turn.lock().await;
        let terms = chain_voucher(&voucher);
        let (paid, fees) = chain.settled(voucher.payer_address, &terms).await?;
        let available = chain.available(voucher.payer_address, voucher.payee).await?;
        let owed = voucher.cumulative.checked_add(voucher.fees_cumulative).ok_or(SettleError::Overflow)?;
        let covered = [paid, fees].into_iter().try_fold(available, Amount::checked_add).ok_or(SettleError::Overflow)?;
        if let Some(missing) = owed.checked_sub(covered).filter(|missing| *missing > Amount::ZERO) {
            chain.deposit(voucher.payee, missing).await?;
        }
        voucher.signature = chain.sign_voucher(&terms)?.to_vec();
        Ok(voucher)
    }

    /// Whether the voucher's payer signed it; needs no connection.
    #[must_use]
    pub fn verify_voucher(&self, voucher: &Voucher) -> bool {
        let (Some(notice), Some(signed)) = (&self.notice, signed_voucher(voucher)) else { return false };
        notice.deployment.payer_of(&signed).is_ok_and(|payer| payer == voucher.payer_address)
    }

    /// Redeems what vouchers promise beyond what they paid already: (worker's parts, fees).
    ///
    /// # Errors
    /// When the chain is down or refuses.
    pub async fn redeem(&self, vouchers: &[Voucher]) -> Result<(Amount, Amount), SettleError> {
        // Fees count for work of the account that is bound to the address they were paid for.
        self.bind().await?;
        let chain = self.chain().await?;
        let _turn = self.turn.lock().await;
        let (mut paid, mut fees) = (Amount::ZERO, Amount::ZERO);
        for signed in vouchers.iter().filter(|voucher| self.verify_voucher(voucher)) {
            let Some(voucher) = signed_voucher(signed) else { continue };
            let (done, done_fees) = chain.settled(signed.payer_address, &voucher.voucher).await?;
            if done >= signed.cumulative && done_fees >= signed.fees_cumulative {
                continue;
            }
            let redeemed = chain.redeem(&voucher).await?;
            paid = paid.checked_add(redeemed.paid).ok_or(SettleError::Overflow)?;
            fees = fees.checked_add(redeemed.fees).ok_or(SettleError::Overflow)?;
        }
        Ok((paid, fees))
    }

    /// What vouchers of `payer` paid `payee` and moved to the distributor, ever.
    ///
    /// # Errors
    /// When the chain is down.
    pub async fn settled(&self, payer: ChainAddress, payee: ChainAddress) -> Result<(Amount, Amount), SettleError> {
        let nothing = Amount::ZERO;
        let stream = ChainVoucher { payee, stream: STREAM, cumulative: nothing, fees_cumulative: nothing };
        Ok(self.chain().await?.settled(payer, &stream).await?)
    }

    /// Which fees arrived of each payer's work by each worker, and in all. Payer and worker are whose accounts were
    /// bound first to the addresses that paid and were paid, which account and address both signed; without that,
    /// nothing is known to have arrived.
    ///
    /// # Errors
    /// When the chain is down.
    pub async fn funding(&self, streams: &[FeeStream]) -> Result<(Vec<Funding>, Amount), SettleError> {
        let mut found = Vec::with_capacity(streams.len());
        for stream in streams {
            let worker_is_bound = self.first_bound(stream.worker).await? == Some(stream.payee);
            let from = if worker_is_bound { self.first_bound(stream.payer).await? } else { None };
            let fees = match from {
                Some(from) => self.settled(from, stream.payee).await?.1,
                None => Amount::ZERO,
            };
            found.push(Funding { stream: *stream, from, fees });
        }
        Ok((found, self.totals().await?.fees))
    }

    /// The address that `account` was bound to first.
    async fn first_bound(&self, account: AccountId) -> Result<Option<ChainAddress>, SettleError> {
        let known = self.first_bound.lock().unwrap_or_else(PoisonError::into_inner).get(&account).copied();
        if known.is_some() {
            return Ok(known);
        }
        let found = self.chain().await?.address_first_bound_to(account).await?;
        if let Some(address) = found {
            let mut first_bound = self.first_bound.lock().unwrap_or_else(PoisonError::into_inner);
            if first_bound.len() >= FIRST_BOUND_MAX {
                first_bound.clear();
            }
            first_bound.insert(account, address);
        }
        Ok(found)
    }

    /// Anchors an epoch and waits until it is final. Doing it again after a crash goes on where it stopped.
    ///
    /// # Errors
    /// When the chain is down, the fees are not there yet or the window is still open.
    pub async fn post_epoch(&self, body: &EpochBody, receipts: &[SignedReceipt]) -> Result<(), SettleError> {
        let chain = self.chain().await?;
        let _turn = self.turn.lock().await;
        let own = earnings(body)?.root();
        let latest = chain.latest().await?;
        if latest.number >= body.epoch {
            let stands = latest.number == body.epoch && latest.earnings_root == own;
            return if stands { Ok(()) } else { Err(SettleError::ForeignEpoch(latest.number)) };
        }
        let batch = match chain.pending().await? {
            Some(batch) if batch.epoch.earnings_root != own => {
                return Err(SettleError::ForeignEpoch(batch.epoch.number));
            }
            Some(batch) => batch,
            None => self.post(&chain, body, receipts).await?,
        };
        self.finalize(&chain, &batch).await
    }

    async fn post(&self, chain: &Chain, body: &EpochBody, receipts: &[SignedReceipt]) -> Result<Batch, SettleError> {
        let tree = earnings(body)?;
        let have = chain.totals().await?.fees;
        if tree.total() > have {
            return Err(SettleError::NotFunded { need: tree.total(), have });
        }
        let leaves = receipts.iter().map(leaf).collect();
        let data = Hash::of(&wire::encode(body));
        let epoch = Epoch::of(body.epoch, &tree, &ReceiptTree::build(leaves), data);
        Ok(chain.once(format!("epoch {}", body.epoch)).post_root(&epoch).await?)
    }

    async fn finalize(&self, chain: &Chain, batch: &Batch) -> Result<(), SettleError> {
        let deadline = tokio::time::Instant::now() + FINALIZE_WAIT;
        loop {
            match chain.finalize(batch).await {
                Ok(_) => return Ok(()),
                Err(error) if tokio::time::Instant::now() >= deadline => return Err(error.into()),
                Err(ChainError::Reverted { .. }) => tokio::time::sleep(FINALIZE_POLL).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The number of the newest final epoch; 0 before the first.
    ///
    /// # Errors
    /// When the chain is down.
    pub async fn newest(&self) -> Result<u64, SettleError> {
        Ok(self.chain().await?.latest().await?.number)
    }

    /// Whether `body` is what stands on the chain as the newest final epoch.
    ///
    /// # Errors
    /// When the chain is down.
    pub async fn is_final(&self, body: &EpochBody) -> Result<bool, SettleError> {
        let latest = self.chain().await?.latest().await?;
        Ok(latest.number == body.epoch && latest.earnings_root == earnings(body)?.root())
    }

    /// Which bodies of these epochs and of the newest stand on the chain for good, and the block in which each was anchored.
    ///
    /// # Errors
    /// When the chain is down.
    pub async fn anchored(&self, epochs: &[u64]) -> Result<Vec<Anchored>, SettleError> {
        let chain = self.chain().await?;
        let newest = chain.latest().await?.number;
        let mut found = Vec::with_capacity(epochs.len() + 1);
        for epoch in epochs.iter().copied().chain([newest]).collect::<BTreeSet<u64>>() {
            match chain.finalized(epoch).await {
                Ok(Some((batch, beacon))) => found.push(Anchored { epoch, body: batch.epoch.data_hash, beacon }),
                Ok(None) => {}
                Err(error) if found.is_empty() => return Err(error.into()),
                // The others are asked for again.
                Err(_) => break,
            }
        }
        Ok(found)
    }

    /// What `address` may still claim by the newest epoch.
    ///
    /// # Errors
    /// When the chain is down.
    pub async fn claimable(&self, body: &EpochBody, address: ChainAddress) -> Result<Amount, SettleError> {
        let earned = body.earned.iter().find(|(to, _)| *to == address).map_or(Amount::ZERO, |(_, amount)| *amount);
        let claimed = self.chain().await?.claimed(address).await?;
        Ok(earned.checked_sub(claimed).unwrap_or(Amount::ZERO))
    }

    /// Claims what `addresses` earned by the newest epoch.
    ///
    /// # Errors
    /// When the chain is down or refuses.
    pub async fn claim(&self, body: &EpochBody, addresses: &[ChainAddress]) -> Result<Amount, SettleError> {
        let mut sum = Amount::ZERO;
        for address in addresses {
            if self.claimable(body, *address).await? == Amount::ZERO {
                continue;
            }
            let chain = self.chain().await?;
            let _turn = self.turn.lock().await;
            let Some(proof) = earnings(body)?.proof(address) else { continue };
            sum = sum.checked_add(chain.claim(&proof).await?.amount).ok_or(SettleError::Overflow)?;
        }
        Ok(sum)
    }

    /// Binds the account's key to this chain address in the registry, once.
    ///
    /// # Errors
    /// When the chain is down or refuses.
    pub async fn bind(&self) -> Result<(), SettleError> {
        if self.bound.load(Ordering::Relaxed) {
            return Ok(());
        }
        let chain = self.chain().await?;
        let account = AccountId(self.account_key.verifying_key().to_bytes());
        let _turn = self.turn.lock().await;
        if chain.address_bound_to(account).await?.is_none() {
            let digest = chain.bind_digest(account).await?;
            chain.bind(account, &Signature(self.account_key.sign(&digest).to_bytes())).await?;
        }
        self.bound.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Sends OPEN.
    ///
    /// # Errors
    /// When the chain is down or the funds do not suffice.
    pub async fn send(&self, to: ChainAddress, amount: Amount) -> Result<[u8; 32], SettleError> {
        let chain = self.chain().await?;
        let _turn = self.turn.lock().await;
        Ok(chain.transfer(to, amount).await?.transaction)
    }

    /// OPEN that `address` holds.
    ///
    /// # Errors
    /// When the chain is down.
    pub async fn balance(&self, address: ChainAddress) -> Result<Amount, SettleError> {
        Ok(self.chain().await?.balance(address).await?)
    }

    /// Where all money is.
    ///
    /// # Errors
    /// When the chain is down.
    pub async fn totals(&self) -> Result<Totals, SettleError> {
        Ok(self.chain().await?.totals().await?)
    }
}

fn leaf(signed: &SignedReceipt) -> ReceiptLeaf {
    let id = signed.receipt.id().0;
    ReceiptLeaf {
        id,
        digest: id,
        payer_key: signed.receipt.payer.0,
        payer_signature: signed.payer_signature.0,
        worker_key: signed.receipt.worker.0,
        worker_signature: signed.worker_signature.0,
    }
}
