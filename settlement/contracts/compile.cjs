// Compiles src/*.sol into ../artifacts (or the folder named as argument), byte by byte the same on every machine.
//
// Invariant: the output depends on the sources, the pinned compiler and these settings, and on nothing else: no metadata hash, no CBOR
// trailer, sources named relative to this folder, keys in a fixed order.
'use strict';
const fs = require('fs');
const path = require('path');
const solc = require('solc');

const ROOT = __dirname;
/** What Rust binds to. The others are libraries and interfaces that are compiled into these. */
const CONTRACTS = ['Anchor', 'Distributor', 'OpenToken', 'PeerRegistry', 'VoucherEscrow'];
const SETTINGS = {
  optimizer: { enabled: true, runs: 200 },
  evmVersion: 'cancun',
  metadata: { bytecodeHash: 'none', appendCBOR: false },
  outputSelection: { '*': { '*': ['abi', 'evm.bytecode.object', 'evm.deployedBytecode.object'] } },
};
/** EIP-170 and EIP-3860: a contract over these can't be deployed on a real chain. */
const RUNTIME_LIMIT_BYTES = 24576;
const INIT_LIMIT_BYTES = 49152;

function readImport(name) {
  try {
    return { contents: fs.readFileSync(path.join(ROOT, 'node_modules', name), 'utf8') };
  } catch (error) {
    return { error: String(error) };
  }
}

function sources() {
  const names = fs.readdirSync(path.join(ROOT, 'src')).filter((name) => name.endsWith('.sol')).sort();
  return Object.fromEntries(names.map((name) => ['src/' + name, { content: fs.readFileSync(path.join(ROOT, 'src', name), 'utf8') }]));
}

/** Returns a map from file name to file content. Throws on any error, and on any warning about our own sources. */
function compile() {
  const input = { language: 'Solidity', sources: sources(), settings: SETTINGS };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: readImport }));
  const ours = (e) => e.sourceLocation === undefined || e.sourceLocation.file.startsWith('src/');
  const findings = (output.errors || []).filter((e) => e.severity === 'error' || (e.severity === 'warning' && ours(e)));
  if (findings.length !== 0) throw new Error(findings.map((e) => e.formattedMessage).join('\n'));
  const artifacts = new Map();
  for (const name of CONTRACTS) {
    const contract = output.contracts['src/' + name + '.sol'][name];
    const init = contract.evm.bytecode.object;
    const runtime = contract.evm.deployedBytecode.object;
    if (init.length / 2 > INIT_LIMIT_BYTES || runtime.length / 2 > RUNTIME_LIMIT_BYTES) throw new Error(name + ' is too large to deploy');
    const artifact = { abi: contract.abi, bytecode: { object: '0x' + init }, deployedBytecode: { object: '0x' + runtime } };
    artifacts.set(name + '.json', JSON.stringify(artifact, null, 1) + '\n');
  }
  return artifacts;
}

module.exports = { compile, SETTINGS };

if (require.main === module) {
  const out = path.resolve(process.argv[2] || path.join(ROOT, '..', 'artifacts'));
  fs.mkdirSync(out, { recursive: true });
  for (const [name, text] of compile()) {
    fs.writeFileSync(path.join(out, name), text);
    const { bytecode, deployedBytecode } = JSON.parse(text);
    const bytes = (hex) => String((hex.object.length - 2) / 2).padStart(6);
    console.log(`${name.padEnd(20)} init ${bytes(bytecode)} bytes, runtime ${bytes(deployedBytecode)} bytes`);
  }
}
