// Breaks the contracts one line at a time and runs the suite that must notice. A mutant that survives shows a missing test.
//
//   node mutants.cjs [text]     all mutants, or those whose name holds the text
//
// Invariant: the sources here are never touched; each mutant lives in a copy in the system's temporary folder.
'use strict';
const fs = require('fs');
const os = require('os');
const path = require('path');
const { spawnSync } = require('child_process');
const { FORGE } = require('./forge.cjs');

const ROOT = __dirname;
/** File, suite that must fail, what the mutant lets through, the text, and what takes its place. */
const MUTANTS = [
  ['Distributor', 'Distributor', 'a claim is paid twice', 'claimed[leaf.account] = done + amount;', ''],
  ['Distributor', 'Invariants', 'a claim is paid twice, seen by the walk', 'claimed[leaf.account] = done + amount;', ''],
  ['Distributor', 'Distributor', 'claims pass the total', 'if (claimedTotal > total || claimedTotal > funded) revert Insolvent();', ''],
  ['Distributor', 'Invariants', 'claims pass the total, seen by the walk', 'if (claimedTotal > total || claimedTotal > funded) revert Insolvent();', ''],
  ['Distributor', 'Distributor', 'the cap is not counted', 'paidInEpoch[epoch] += amount;', ''],
  ['Distributor', 'Distributor', 'one claim passes the cap', 'uint128(due < left ? due : left)', 'uint128(due)'],
  ['Distributor', 'Distributor', 'the caller is paid', 'token.safeTransfer(leaf.account, amount)', 'token.safeTransfer(msg.sender, amount)'],
  ['Distributor', 'Distributor', 'funds are counted twice', 'funded += amount;', 'funded += 2 * amount;'],
  ['SumTree', 'Distributor', 'the total is not proven', 'return hash == root && sum == total;', 'return hash == root;'],
  ['SumTree', 'Distributor', 'an index beyond the tree', 'if (index >> depth != 0) revert IndexOutOfRange();', ''],
  ['SumTree', 'Distributor', 'an endless proof', 'if (depth > MAX_DEPTH) revert ProofTooLong();', ''],
  ['SumTree', 'Vectors', 'a leaf is hashed once', 'keccak256(bytes.concat(keccak256(abi.encode(account, cumulative))))', 'keccak256(abi.encode(account, cumulative))'],
  ['SumTree', 'Disputes', 'spans ignore the depth', 'uint256 shift = MAX_DEPTH - depth;', 'uint256 shift = depth - depth;'],
  ['ReceiptTree', 'Disputes', 'a receipt under two indices', 'if (proof.index >> depth != 0) revert IndexOutOfRange();', ''],
  ['Anchor', 'Anchor', 'a total beyond the funds', 'if (total > distributor.funded()) revert TotalNotFunded();', ''],
  ['Anchor', 'Invariants', 'a total beyond the funds, seen by the walk', 'if (total > distributor.funded()) revert TotalNotFunded();', ''],
  ['Anchor', 'Anchor', 'a falling total', 'if (total < finalTotal) revert TotalDecreased();', ''],
  ['Anchor', 'Anchor', 'two pending batches', 'if (pending != 0) revert PendingExists();', ''],
  ['Anchor', 'Anchor', 'an epoch out of turn', 'if (epoch != finalEpoch + 1) revert WrongEpoch(finalEpoch + 1);', ''],
  ['Anchor', 'Anchor', 'no window', 'if (block.timestamp < uint256(batch.postedAt) + windowSeconds) revert WindowOpen();', ''],
  ['Anchor', 'Anchor', 'any batch is final', 'if (id != pending) revert NotPending();', ''],
  ['Anchor', 'Disputes', 'a rejected batch comes again', 'rejected[contentOf(batch)] = true;', ''],
  ['Anchor', 'Disputes', 'the whole bond is the reward', '? 0 : bond / 2', '? 0 : bond'],
  ['Anchor', 'Anchor', 'the guardian earns by a veto', 'reason == Reason.Veto ? 0 : bond / 2', 'bond / 2'],
  ['Anchor', 'Anchor', 'anyone vetoes', 'if (msg.sender != guardian) revert NotGuardian();\n        _reject', '_reject'],
  ['Anchor', 'Disputes', 'an equal amount is a decrease', 'newer.cumulative >= older.cumulative', 'newer.cumulative > older.cumulative'],
  ['Anchor', 'Disputes', 'an omission of nothing', 'older.cumulative == 0 || ', ''],
  ['Anchor', 'Disputes', 'an omission between strangers', 'beforeTo == nextFrom && ', ''],
  ['Anchor', 'Disputes', 'an omission before any leaf', 'beforeFrom == 0 && (', '('],
  ['Anchor', 'Disputes', 'right sums are fraud', 'if (leftSum <= node.sum && rightSum == node.sum - leftSum) revert NotFraud();', ''],
  ['Anchor', 'Disputes', 'wrapping sums are none', 'leftSum <= node.sum && rightSum == node.sum - leftSum', 'leftSum + rightSum == node.sum'],
  ['Anchor', 'Disputes', 'a right leaf sum is fraud', 'if (cumulative == node.sum) revert NotFraud();', ''],
  ['Anchor', 'Disputes', 'an account twice is in order', 'left.account < right.account) revert', 'left.account <= right.account) revert'],
  ['Anchor', 'Disputes', 'any two leaves are out of order', 'leftFrom >= rightFrom || ', ''],
  ['Anchor', 'Disputes', 'a receipt duplicates itself', ' || ReceiptTree.place(a) == ReceiptTree.place(b)', ''],
  ['Anchor', 'Disputes', 'a true signature is fraud', 'if (holds) revert NotFraud();', ''],
  ['VoucherEscrow', 'VoucherEscrow', 'a voucher is paid twice', 'done.paid += paid;', ''],
  ['VoucherEscrow', 'Invariants', 'a voucher is paid twice, seen by the walk', 'done.paid += paid;', ''],
  ['VoucherEscrow', 'VoucherEscrow', 'fees are settled twice', 'done.fees += fees;', ''],
  ['VoucherEscrow', 'VoucherEscrow', 'the balance never sinks', 'account.balance = uint128(balance - moved);', ''],
  ['VoucherEscrow', 'VoucherEscrow', 'the fees stay behind', 'if (fees != 0) distributor.fund(fees);', ''],
  ['VoucherEscrow', 'VoucherEscrow', 'fees are paid last', 'uint128(moved * priceDue / due)', 'uint128(moved < priceDue ? moved : priceDue)'],
  ['VoucherEscrow', 'VoucherEscrow', 'no thaw', ' || block.timestamp < account.thawedAt', ''],
  ['VoucherEscrow', 'VoucherEscrow', 'a thaw outlives its withdrawal', 'account.thawedAt = 0;', ''],
  ['VoucherEscrow', 'VoucherEscrow', 'redeemed money is withdrawn', 'account.thawing < account.balance ? account.thawing : account.balance', 'account.thawing'],
  ['PeerRegistry', 'PeerRegistry', 'a proof for every chain', 'return keccak256(abi.encode(BIND_DOMAIN, block.chainid, ', 'return keccak256(abi.encode(BIND_DOMAIN, '],
  ['PeerRegistry', 'PeerRegistry', 'a proof for every registry', 'return keccak256(abi.encode(BIND_DOMAIN, block.chainid, address(this), ', 'return keccak256(abi.encode(BIND_DOMAIN, block.chainid, '],
  ['PeerRegistry', 'PeerRegistry', 'a proof for ever', '++nonceOf[edKey];', ''],
  ['PeerRegistry', 'PeerRegistry', 'a binding is front-run', 'bindDigest(msg.sender, edKey))) revert', 'bindDigest(tx.origin, edKey))) revert'],
  ['PeerRegistry', 'PeerRegistry', 'a key with two accounts', 'if (accountOf[edKey] != address(0)) revert KeyTaken();', ''],
  ['PeerRegistry', 'PeerRegistry', 'an account with two keys', 'if (keyOf[msg.sender] != 0) revert AccountTaken();', ''],
  ['PeerRegistry', 'PeerRegistry', 'no delay', 'if (block.timestamp < change.readyAt) revert NotReady();', ''],
  ['PeerRegistry', 'PeerRegistry', 'a stolen key by rotation', 'if (change.newKey != 0 && accountOf[change.newKey] != address(0)) revert KeyTaken();', ''],
  ['PeerRegistry', 'PeerRegistry', 'an old key stays bound', 'delete accountOf[oldKey];', ''],
  ['Ed25519', 'Ed25519', 'keys of small order', '_smallOrder(ay) || ', ''],
  ['Ed25519', 'Ed25519', 'R of small order', ' || _smallOrder(_rev(uint256(R)) & Y_MASK)', ''],
  ['Ed25519', 'Ed25519', 'a second S', 'if (s >= L) return false;', ''],
  ['Ed25519', 'Ed25519', 'the sign of the key is lost', 'if (x & 1 != sign) x = P - x;', ''],
  ['OpenToken', 'OpenToken', 'less than the whole', 'if (sum != WHOLE_BPS || totalSupply() != TOTAL_SUPPLY) revert BadAllocation();', ''],
];

/** What a mutant must be caught by doesn't depend on the optimizer, and these spare half of the compiler's time. */
const HASTE = { FOUNDRY_OPTIMIZER: 'false', FOUNDRY_DYNAMIC_TEST_LINKING: 'true', FOUNDRY_FUZZ_RUNS: '64', FOUNDRY_INVARIANT_RUNS: '24', FOUNDRY_INVARIANT_SHRINK_RUN_LIMIT: '0' };

function copyProject(target) {
  for (const name of ['src', 'test', 'foundry.toml', 'solc-wrap.sh', 'solc-wrap.cjs', 'node_modules/@openzeppelin']) {
    fs.cpSync(path.join(ROOT, name), path.join(target, name), { recursive: true });
  }
}

/** True when the suite passes. */
function passes(target, suite) {
  const args = ['test', '--root', target, '--match-path', `test/${suite}.t.sol`, '--fail-fast'];
  const env = { ...process.env, SOLC_DIR: path.join(ROOT, 'node_modules', 'solc'), ...HASTE };
  const run = spawnSync(FORGE, args, { cwd: target, env, encoding: 'utf8' });
  if (!/Suite result:/.test(run.stdout)) throw new Error(`the ${suite} suite did not run:\n${run.stdout}\n${run.stderr}`);
  return run.status === 0;
}

function main() {
  const target = fs.mkdtempSync(path.join(os.tmpdir(), 'mutants-'));
  const wanted = MUTANTS.filter((mutant) => mutant[2].includes(process.argv[2] || ''));
  const survivors = [];
  try {
    copyProject(target);
    for (const [file, suite, name, from, to] of wanted) {
      const place = path.join(target, 'src', file + '.sol');
      const source = fs.readFileSync(path.join(ROOT, 'src', file + '.sol'), 'utf8');
      if (source.split(from).length !== 2) throw new Error(`${name}: its text must stand exactly once in ${file}.sol`);
      fs.writeFileSync(place, source.replace(from, () => to));
      const survived = passes(target, suite);
      console.log(`${survived ? 'SURVIVED' : 'killed  '} ${file}: ${name}`);
      if (survived) survivors.push(name);
      fs.writeFileSync(place, source);
    }
  } finally {
    fs.rmSync(target, { recursive: true, force: true });
  }
  console.log(`${wanted.length - survivors.length} of ${wanted.length} mutants killed`);
  process.exitCode = survivors.length === 0 ? 0 : 1;
}

main();
