//! OPEN, the payers' escrow and the vouchers that settle it.
//!
//! Invariant: a voucher is cumulative, so the newest one of a stream stands for all before it and redeeming it again
//! pays nothing.

use alloy::primitives::{Address, B256, Signature, U256};
use alloy::sol_types::{Eip712Domain, SolCall, SolEvent, SolStruct, eip712_domain};
use serde::{Deserialize, Serialize};
use tributary_protocol::id::{Amount, ChainAddress};

use super::{Chain, ChainError, Confirmation, Deployment, address_of, amount, evm_address};
use crate::contracts::{Distributor, OpenToken, VoucherEscrow};

/// Times the sums are read anew when a block came between.
const TOTALS_TRIES: usize = 8;

/// What the signer owes `payee` on one stream since its beginning. The payer is whoever signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voucher {
    /// The worker's address.
    pub payee: ChainAddress,
    /// One line of counting; parallel requests use several.
    pub stream: [u8; 32],
    /// Owed to the payee since the beginning.
    pub cumulative: Amount,
    /// Owed in fees beside it since the beginning.
    pub fees_cumulative: Amount,
}

/// A voucher with the payer's signature (EIP-712, 65 bytes, r s v).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedVoucher {
    /// What is owed.
    pub voucher: Voucher,
    /// The payer's signature.
    pub signature: [u8; 65],
}

/// What a redeemed voucher moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redeemed {
    /// To the payee.
    pub paid: Amount,
    /// Into the distributor.
    pub fees: Amount,
    /// Owed still, since the escrow held too little.
    pub still_due: Amount,
    /// The transaction.
    pub confirmation: Confirmation,
}

/// Where all money is, at one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Put into the escrow by payers, and into the distributor directly, ever.
    pub deposits: Amount,
    /// Taken out, ever: `paid` + `claimed` + `withdrawn`.
    pub claims: Amount,
    /// The tokens both contracts hold now. It is read from the token and not computed, so
    /// `deposits = claims + remaining` is a check; only tokens sent there as a gift would add to it.
    pub remaining: Amount,
    /// Of the claims: the workers' price.
    pub paid: Amount,
    /// Of the claims: earnings, out of the fees.
    pub claimed: Amount,
    /// Of the claims: given back to payers.
    pub withdrawn: Amount,
    /// Moved from escrow to distributor, ever.
    pub fees: Amount,
}

impl Totals {
    /// Whether every unit that came in went out or is still there.
    #[must_use]
    pub fn balance(&self) -> bool {
        self.claims.checked_add(self.remaining) == Some(self.deposits)
    }
}

impl From<&Voucher> for VoucherEscrow::Voucher {
    fn from(voucher: &Voucher) -> Self {
        Self {
            payee: evm_address(voucher.payee),
            stream: B256::new(voucher.stream),
            cumulative: voucher.cumulative.0,
            feesCumulative: voucher.fees_cumulative.0,
        }
    }
}

impl Deployment {
    /// The 32 bytes a payer signs for `voucher` on this chain and escrow; no connection needed.
    #[must_use]
    pub fn voucher_digest(&self, voucher: &Voucher) -> [u8; 32] {
        let domain: Eip712Domain = eip712_domain! {
            name: "Tributary VoucherEscrow",
            version: "1",
            chain_id: self.chain_id,
            verifying_contract: evm_address(self.escrow),
        };
        VoucherEscrow::Voucher::from(voucher).eip712_signing_hash(&domain).0
    }

    /// Who owes `signed`: compare it with the payer you expect before serving anything for it.
    pub fn payer_of(&self, signed: &SignedVoucher) -> Result<ChainAddress, ChainError> {
        let signature = Signature::from_raw_array(&signed.signature).map_err(|_| ChainError::BadSignature)?;
        let canonical = signature.normalize_s().is_none() && matches!(signed.signature[64], 27 | 28);
        if !canonical {
            return Err(ChainError::BadSignature);
        }
        let digest = B256::new(self.voucher_digest(&signed.voucher));
        signature.recover_address_from_prehash(&digest).map(address_of).map_err(|_| ChainError::BadSignature)
    }
}

impl Chain {
    /// OPEN that `address` holds.
    pub async fn balance(&self, address: ChainAddress) -> Result<Amount, ChainError> {
        let token = OpenToken::new(evm_address(self.deployment()?.token), self.provider());
        amount(token.balanceOf(evm_address(address)).call().await?)
    }

    /// Sends OPEN.
    pub async fn transfer(&self, to: ChainAddress, value: Amount) -> Result<Confirmation, ChainError> {
        self.require(value).await?;
        let call = OpenToken::transferCall { to: evm_address(to), value: U256::from(value.0) };
        self.send("transfer", self.deployment()?.token, call.abi_encode()).await
    }

    /// Sets OPEN of this account aside for `payee`.
    pub async fn deposit(&self, payee: ChainAddress, value: Amount) -> Result<Confirmation, ChainError> {
        let escrow = self.deployment()?.escrow;
        if !self.is_done("deposit").await? {
            self.require(value).await?;
            self.allow(escrow, value).await?;
        }
        let call = VoucherEscrow::depositCall { payee: evm_address(payee), amount: value.0 };
        self.send("deposit", escrow, call.abi_encode()).await
    }

    /// What `payee` can count on from `payer`: the deposit without the part asked back. Serve no further than this.
    pub async fn available(&self, payer: ChainAddress, payee: ChainAddress) -> Result<Amount, ChainError> {
        let escrow = VoucherEscrow::new(evm_address(self.deployment()?.escrow), self.provider());
        Ok(Amount(escrow.available(evm_address(payer), evm_address(payee)).call().await?))
    }

    /// What was paid and what went to fees on a stream so far.
    pub async fn settled(&self, payer: ChainAddress, voucher: &Voucher) -> Result<(Amount, Amount), ChainError> {
        let escrow = VoucherEscrow::new(evm_address(self.deployment()?.escrow), self.provider());
        let payee = evm_address(voucher.payee);
        let done = escrow.settled(evm_address(payer), payee, B256::new(voucher.stream)).call().await?;
        Ok((Amount(done.paid), Amount(done.fees)))
    }

    /// Signs a voucher as the payer.
    pub fn sign_voucher(&self, voucher: &Voucher) -> Result<[u8; 65], ChainError> {
        let digest = self.deployment()?.voucher_digest(voucher);
        Ok(self.sender.key.sign(B256::new(digest))?.as_bytes())
    }

    /// Hands a voucher in: the price goes to its payee and the fees into the distributor. Anyone may.
    pub async fn redeem(&self, signed: &SignedVoucher) -> Result<Redeemed, ChainError> {
        let escrow = evm_address(self.deployment()?.escrow);
        let call = VoucherEscrow::redeemCall {
            voucher: (&signed.voucher).into(),
            signature: signed.signature.to_vec().into(),
        };
        let receipt = self.submit("redeem", Some(escrow), call.abi_encode()).await?;
        let ours = receipt.logs().iter().filter(|log| log.address() == escrow);
        let event = ours.filter_map(|log| VoucherEscrow::Redeemed::decode_log(&log.inner).ok()).next();
        let event = event.ok_or(ChainError::nonsense("a redeemed voucher left no event"))?;
        Ok(Redeemed {
            paid: Amount(event.paid),
            fees: Amount(event.fees),
            still_due: amount(event.stillDue)?,
            confirmation: Confirmation::of(&receipt),
        })
    }

    /// Asks for money back from what was set aside for `payee`, who can redeem against it until `withdraw`.
    pub async fn request_thaw(&self, payee: ChainAddress, value: Amount) -> Result<Confirmation, ChainError> {
        let call = VoucherEscrow::requestThawCall { payee: evm_address(payee), amount: value.0 };
        self.send("thaw", self.deployment()?.escrow, call.abi_encode()).await
    }

    /// Takes back what has thawed.
    pub async fn withdraw(&self, payee: ChainAddress) -> Result<Confirmation, ChainError> {
        let call = VoucherEscrow::withdrawCall { payee: evm_address(payee) };
        self.send("withdraw", self.deployment()?.escrow, call.abi_encode()).await
    }

    /// Where all money is, read within one block.
    pub async fn totals(&self) -> Result<Totals, ChainError> {
        for _ in 0..TOTALS_TRIES {
            let before = self.head().await?;
            let totals = self.read_totals().await?;
            if self.head().await? == before {
                return Ok(totals);
            }
        }
        Err(ChainError::ChainDown { reason: "blocks come faster than the sums can be read".to_owned() })
    }

    async fn read_totals(&self) -> Result<Totals, ChainError> {
        let deployment = self.deployment()?;
        let token = OpenToken::new(evm_address(deployment.token), self.provider());
        let escrow = VoucherEscrow::new(evm_address(deployment.escrow), self.provider());
        let distributor = Distributor::new(evm_address(deployment.distributor), self.provider());
        let deposited = escrow.totalDeposited().call().await?;
        let paid = escrow.totalPaid().call().await?;
        let fees = escrow.totalFees().call().await?;
        let withdrawn = escrow.totalWithdrawn().call().await?;
        let funded = distributor.funded().call().await?;
        let claimed = distributor.claimedTotal().call().await?;
        let escrowed = token.balanceOf(*escrow.address()).call().await?;
        let held = token.balanceOf(*distributor.address()).call().await?;
        Ok(Totals {
            deposits: amount(deposited + funded.saturating_sub(fees))?,
            claims: amount(paid + claimed + withdrawn)?,
            remaining: amount(escrowed + held)?,
            paid: amount(paid)?,
            claimed: amount(claimed)?,
            withdrawn: amount(withdrawn)?,
            fees: amount(fees)?,
        })
    }

    /// An error that says how much is missing, before anything is sent.
    pub(super) async fn require(&self, need: Amount) -> Result<(), ChainError> {
        let have = self.balance(self.address()).await?;
        if have < need { Err(ChainError::InsufficientFunds { need, have }) } else { Ok(()) }
    }

    /// Lets one of our contracts, whose code is fixed, take OPEN from this account when this account calls it.
    pub(super) async fn allow(&self, spender: ChainAddress, need: Amount) -> Result<(), ChainError> {
        let token_address = evm_address(self.deployment()?.token);
        let token = OpenToken::new(token_address, self.provider());
        let spender: Address = evm_address(spender);
        let allowed = token.allowance(evm_address(self.address()), spender).call().await?;
        if allowed >= U256::from(need.0) {
            return Ok(());
        }
        let call = OpenToken::approveCall { spender, value: U256::MAX };
        let unconditional = Self { purpose: None, ..self.clone() };
        unconditional.submit("approve", Some(token_address), call.abi_encode()).await.map(|_| ())
    }
}
