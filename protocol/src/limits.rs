//! Every bound of the protocol and its reason.
//!
//! Invariant: nothing that comes from another peer is allocated, stored or queued without one of these bounds.

/// A signed envelope with header and signature, in bytes: fits a request without fragmentation of buffers.
pub const ENVELOPE_MAX_BYTES: usize = 64 * 1024;
/// A gossip message, in bytes: gossip multiplies every byte by the mesh degree, and the largest release must spread by it.
pub const GOSSIP_MAX_BYTES: usize = 48 * 1024;
/// A request or response between two peers, in bytes; larger things are blobs.
pub const REQUEST_MAX_BYTES: usize = 1024 * 1024;
/// Addresses in one peer record: a host with more is misconfigured or an amplification attempt.
pub const ADDRESSES_MAX: usize = 16;
/// Characters in one address.
pub const ADDRESS_MAX_BYTES: usize = 256;
/// Clock difference that is tolerated between sender and receiver, in milliseconds: two minutes.
pub const CLOCK_WINDOW_MS: u64 = 120_000;
/// How far behind a signer's newest sequence number a message may arrive: gossip and direct paths overtake each other.
pub const REPLAY_WINDOW: u64 = 1024;
/// Signers whose sequence numbers are remembered; the least recently heard is forgotten first.
pub const REPLAY_SIGNERS_MAX: usize = 65_536;
/// Peers whose records are kept.
pub const PEERS_MAX: usize = 16_384;
/// Datanets a node keeps, and releases: [`TASKS_MAX`]. Its own ones always fit.
pub const DATANETS_MAX: usize = 4096;
/// The part of these that one account of others may take, as its inverse.
pub const ACCOUNT_PART: usize = 16;
/// Contributors in one datanet: a head names all of them, or the rest would never spread.
pub const CONTRIBUTORS_MAX: usize = HEAD_CONTRIBUTORS_MAX;
/// Entries in one contributor's log: at 64 MiB a shard this is 64 TiB.
pub const LOG_ENTRIES_MAX: u64 = 1_048_576;
/// Log entries in one answer to a log request: stays below [`REQUEST_MAX_BYTES`].
pub const LOG_BATCH_MAX: usize = 256;
/// Contributors of one knowledge cluster, left out together: whoever rewords what others teach takes about an even part
/// with them, so the fewer, the more the first keep.
pub const LEFT_OUT_MAX: usize = 3;
/// Contributors named in one head announcement: stays below [`GOSSIP_MAX_BYTES`].
pub const HEAD_CONTRIBUTORS_MAX: usize = 256;
/// Notaries of one datanet: each attests to everything, and a majority of them dates a claim.
pub const NOTARIES_MAX: usize = 9;
/// Logs of notes in one datanet, its notaries' among them, for whom room is always kept: with the contributors a head
/// announcement stays below [`GOSSIP_MAX_BYTES`], and an offer that names it too.
pub const NOTE_LOGS_MAX: usize = 96;
/// Commitments of one contributor in one datanet.
pub const COMMITMENTS_MAX: u64 = 4096;
/// Attestations of one notary in one datanet: one a second while records come in, none while nothing does.
pub const ATTESTATIONS_MAX: u64 = 262_144;
/// Logs that one notary's attestations name in all: 19 MB in memory.
pub const ATTESTED_MAX: usize = 262_144;
/// How often a notary's attestations name one log: an even part for as many logs as a datanet has, so that nobody uses up what is
/// there for others.
pub const ATTESTED_OF_ONE_MAX: u32 = 744;
/// Of these, how often without a pause: an addition a day for a year.
pub const ATTESTED_AT_ONCE: u32 = 372;
/// How often a notary names a log after these before its pauses double: the rest takes five years then.
pub const ATTESTED_AT_ONE_PACE: u32 = 16;
/// The first of these pauses, in milliseconds.
pub const ATTESTED_PAUSE_MS: u64 = 1_000;
/// Bytes of notes in one message: stays below [`REQUEST_MAX_BYTES`].
pub const NOTES_BATCH_MAX_BYTES: usize = 256 * 1024;
/// Records in one shard.
pub const SHARD_RECORDS_MAX: u32 = 4_000_000;
/// Bytes of one shard, 256 MiB: the upper end of the design's range.
pub const SHARD_MAX_BYTES: u64 = 256 * 1024 * 1024;
/// Characters of a name.
pub const NAME_MAX_BYTES: usize = 128;
/// Bytes of a licence expression (SPDX).
pub const LICENCE_MAX_BYTES: usize = 128;
/// Bytes of a training recipe as canonical JSON.
pub const RECIPE_MAX_BYTES: usize = 4096;
/// Tasks a node follows at once; finished ones are forgotten first.
pub const TASKS_MAX: usize = 4096;
/// Bids kept for one task.
pub const BIDS_MAX: usize = 64;
/// How far ahead a task's deadline may lie, in milliseconds: a week.
pub const DEADLINE_MAX_MS: u64 = 7 * 24 * 3_600 * 1_000;
/// How long a worker waits for the data of a task it won, in milliseconds, before it gives the task back.
pub const JOB_START_MAX_MS: u64 = 600_000;
/// Times a task is offered again after its worker died before it is given up.
pub const AWARD_ROUNDS_MAX: u32 = 8;
/// Milliseconds in which sealed bids are taken.
pub const BID_WINDOW_MS: u64 = 1_500;
/// Milliseconds in which bids are opened after that.
pub const REVEAL_WINDOW_MS: u64 = 1_500;
/// Milliseconds an opened bid binds its worker after bidding closed; then the slot is free for other tasks.
pub const BID_HOLDS_MS: u64 = 4_000;
/// Milliseconds without a heartbeat after which a lease is lost.
pub const LEASE_MS: u64 = 12_000;
/// The least and the most milliseconds a worker may report life without one step of progress; between them, a
/// quarter of the time that was left.
pub const STALL_MIN_MS: u64 = 2 * LEASE_MS;
/// See [`STALL_MIN_MS`].
pub const STALL_MAX_MS: u64 = 600_000;
/// The longest pause between offers of a task that nobody bids on, in milliseconds.
pub const REOFFER_MAX_MS: u64 = 30_000;
/// Milliseconds after which an answer that has not ended is given up and another worker asked.
pub const ANSWER_TIMEOUT_MS: u64 = 180_000;
/// Milliseconds between a worker's heartbeats: four chances within one lease.
pub const HEARTBEAT_MS: u64 = 3_000;
/// Milliseconds a verifier has before another one is asked.
pub const VERIFY_TIMEOUT_MS: u64 = 90_000;
/// Milliseconds between repeats of an unanswered message.
pub const RETRY_MS: u64 = 2_000;
/// Milliseconds between a node's housekeeping ticks.
pub const TICK_MS: u64 = 1_000;
/// Milliseconds between announcements of a node's own record and heads.
pub const ANNOUNCE_MS: u64 = 4_000;
/// Peers up to which records are announced every [`ANNOUNCE_MS`]; with more of them each announces less often,
/// so that a network of any size carries about eight records a second.
pub const ANNOUNCE_PEERS: usize = 32;
/// Newcomers are greeted at once by about this many peers, whatever the network's size.
pub const GREETINGS_MAX: usize = 16;
/// Announcement intervals of silence after which a peer's record is not relied upon any more.
pub const PEER_STALE_INTERVALS: u64 = 5;
/// Milliseconds after which a silent peer's record is not relied upon any more, in a small network.
pub const PEER_STALE_MS: u64 = PEER_STALE_INTERVALS * ANNOUNCE_MS;
/// Checkpoints in one training result: stays below [`ENVELOPE_MAX_BYTES`].
pub const CHECKPOINTS_MAX: usize = 512;
/// Points of one training's curve: as many as a screen is wide, about 10 kB in one message.
pub const CURVE_POINTS_MAX: usize = 512;
/// Segments one verdict may cover.
pub const SEGMENTS_MAX: usize = 64;
/// Prompt of an inference request, in bytes.
pub const PROMPT_MAX_BYTES: usize = 32 * 1024;
/// Texts that end an answer; OpenAI's interface allows four.
pub const STOPS_MAX: usize = 8;
/// The longest of them: every piece of text waits for at most this many bytes.
pub const STOP_MAX_BYTES: usize = 256;
/// A JSON schema that an answer is held to: with the prompt it stays below [`ENVELOPE_MAX_BYTES`].
pub const SCHEMA_MAX_BYTES: usize = 16 * 1024;
/// Tokens one answer may have.
pub const ANSWER_TOKENS_MAX: u32 = 8192;
/// The likeliest tokens that may be asked for beside each token of an answer; OpenAI's interface allows twenty.
pub const TOP_LOGPROBS_MAX: u8 = 20;
/// Bytes of one token in a report of probabilities: the longest words of known vocabularies are runs of 128 blanks.
pub const TOKEN_MAX_BYTES: usize = 128;
/// Tokens in all reports of one answer, those beside its own counted too: below 5 MB on the way.
pub const LOGPROBS_MAX: u32 = 32_768;
/// Records that may stand before one question: each doubles the losses that are computed of its answer.
pub const PASSAGES_MAX: usize = 5;
/// Bytes of prompt and completion of one of them; longer records are not retrieved.
pub const PASSAGE_MAX_BYTES: usize = 4 * 1024;
/// Bytes of one transcript: 258 for each 32 tokens of the longest answer, four for each token, twelve for each
/// contributor, and the records that stood before the question.
pub const TRANSCRIPT_MAX_BYTES: usize = 132 * 1024 + PASSAGES_MAX * (PASSAGE_MAX_BYTES + 1024);
/// Bytes of transcripts of a node's own answers that stay in memory, so that they can be recomputed: some ten thousand
/// usual ones; the oldest make room.
pub const TRANSCRIPTS_KEPT_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of a proof of falsification: a receipt, its question, its release and its transcript, or pages of a span index.
pub const PROOF_MAX_BYTES: usize = 1024 * 1024;
/// Proofs that a node keeps; more are not needed to avoid whom they convict.
pub const PROOFS_MAX: usize = 1024;
/// Of these, proofs against one account: one convicts, and nobody shall crowd out those against others.
pub const PROOFS_PER_ACCUSED_MAX: usize = 8;
/// Accounts with a weight in one receipt: all contributors of a datanet, and those of the records before the question.
pub const RECEIPT_SHARES_MAX: usize = CONTRIBUTORS_MAX + PASSAGES_MAX;
/// Determinism classes one node computes in: kernels of some number formats on a processor and a GPU.
pub const CLASSES_MAX: usize = 8;
/// Adapters a node says it serves in one record.
pub const SERVING_MAX: usize = 64;
/// Receipts in one witness batch.
pub const BATCH_RECEIPTS_MAX: usize = 4096;
/// Bytes of a batch body.
pub const BATCH_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Milliseconds over which a witness gathers receipts before it seals a batch.
pub const BATCH_INTERVAL_MS: u64 = 4_000;
/// Witnesses of one receipt: design section 5 asks for 8 to 16.
pub const WITNESSES_PER_RECEIPT: usize = 8;
/// Batch heads whose bodies a node waits for.
pub const BATCH_HEADS_MAX: usize = 4096;
/// Of these, heads of one witness, so that nobody crowds out the others.
pub const BATCH_HEADS_PER_WITNESS_MAX: usize = 256;
/// Batches of one witness that may be read out of order.
pub const BATCHES_AHEAD_MAX: usize = 65_536;
/// Fetches of a body before its head is dropped; the witness's record brings it up again.
pub const BODY_TRIES_MAX: u32 = 12;
/// Epochs that wait for receipts: each holds a whole body in memory.
pub const EPOCHS_UNCHECKED_MAX: usize = 8;
/// How long an epoch keeps others from waiting whose receipts are not all here, in milliseconds: batches bring them within seconds.
pub const EPOCH_INCOMPLETE_MS: u64 = 120_000;
/// Epochs with wrong sums that are remembered.
pub const EPOCHS_WRONG_MAX: usize = 64;
/// Epochs of which the chain's word is read at one go.
pub const EPOCHS_READ_MAX: usize = 16;
/// Epochs whose heads are remembered.
pub const EPOCHS_MAX: usize = 65_536;
/// Receipts waiting for acknowledgement that a node sends again.
pub const OUTBOX_MAX: usize = 4096;
/// Messages of one kind that a node repeats in one tick, the longest waiting first.
pub const REPEATS_PER_TICK: usize = 64;
/// Times a receipt is sent to one peer, each time after a longer pause, before another witness is chosen.
pub const SEND_TRIES_MAX: u32 = 8;
/// Acknowledgements of witnesses after which a receipt counts as passed on: one of them may lose its disk.
pub const WITNESS_QUORUM: usize = 2;
/// Milliseconds a worker leaves the passing on of its receipt to the payer before it does so itself.
pub const WORKER_SPREADS_MS: u64 = 30_000;
/// Receipts of others a node keeps; its own are kept always.
pub const RECEIPTS_MAX: usize = 1_048_576;
/// Receipts of others a node keeps of one payer, so that no account takes the room of sixteen.
pub const RECEIPTS_PER_PAYER_MAX: usize = RECEIPTS_MAX / 16;
/// Receipts of others above which only those are taken whose payers' fees are known to have arrived: accounts are free
/// and receipts for nothing too, and half the room is for those who pay.
pub const RECEIPTS_UNPAID_MAX: usize = RECEIPTS_MAX / 2;
/// Unpaid work a worker does for one payer before it asks for a voucher, in answers.
pub const EXPOSURE_ANSWERS_MAX: u32 = 256;
/// One in so many answers is audited for settlement, by two who did not serve it: each takes a forward pass for every
/// contributor without whom an adapter was trained. A policy until governance sets another.
pub const AUDIT_ONE_IN: core::num::NonZeroU32 = core::num::NonZeroU32::new(16).unwrap();
/// Earnings in one epoch's ledger.
pub const LEDGER_ACCOUNTS_MAX: usize = 1_048_576;
/// Earnings in a ledger that the fees of one paying address may bring: addresses are free to pay and a ledger's room is not, so nobody
/// fills it with dust alone.
pub const LEDGER_ACCOUNTS_PER_PAYER_MAX: usize = LEDGER_ACCOUNTS_MAX / 256;
/// Streams whose fees are read on the chain in one go: two calls each.
pub const FUNDING_STREAMS_MAX: usize = 1024;
/// Milliseconds between the epochs that a poster anchors by itself.
pub const EPOCH_INTERVAL_MS: u64 = 60_000;
/// Milliseconds a fetch of a blob may take before it is asked for again.
pub const FETCH_RETRY_MS: u64 = 5_000;
/// Depth of a Merkle proof: 2^40 leaves are more than any tree here holds.
pub const MERKLE_DEPTH_MAX: usize = 40;
/// Accounts that may edit one datanet's card: each has its own share of [`CARD_MAX_BYTES`], and a share must have room
/// for a change of [`CARD_CHANGE_MAX_BYTES`].
pub const CARD_EDITORS_MAX: usize = 128;
/// Bytes of one change of a card: with signature and header it fits an envelope.
pub const CARD_CHANGE_MAX_BYTES: usize = 60 * 1024;
/// Bytes of all changes of a card (design section 6), divided equally among those who may edit it, so that nobody can
/// fill it for the others.
pub const CARD_MAX_BYTES: usize = 8 * 1024 * 1024;
/// What each change counts beyond its own bytes: to check one takes time that grows with the number of those before
/// it, so a card has fewer than 8,192.
pub const CARD_CHANGE_COST_BYTES: usize = 1024;
/// Bytes of changes in one message, counted so: stays below [`REQUEST_MAX_BYTES`].
pub const CARD_BATCH_MAX_BYTES: usize = 256 * 1024;
/// Changes in one message, which a receiver checks at one go.
pub const CARD_BATCH_MAX: usize = CARD_BATCH_MAX_BYTES / CARD_CHANGE_COST_BYTES;
/// Bytes of the cards that this node may not edit and only keeps for others, all together: they stay in memory.
pub const CARDS_MAX_BYTES: usize = 128 * 1024 * 1024;
