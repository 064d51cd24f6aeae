// Lets forge use npm's solc, which is WebAssembly, as its compiler: answers --version and --standard-json as the native one does.
'use strict';
const fs = require('fs');
// SOLC_DIR names the solc package where it isn't below this folder (the mutation check works in a copy).
const solc = require(process.env.SOLC_DIR || 'solc');

const args = process.argv.slice(2);
if (args.includes('--version')) {
  const version = solc.version().replace('.Emscripten.clang', '.Linux.g++');
  console.log('solc, the solidity compiler commandline interface\nVersion: ' + version);
} else if (args.includes('--standard-json')) {
  fs.writeSync(1, solc.compile(fs.readFileSync(0, 'utf8')));
} else {
  console.error('solc-wrap: only --version and --standard-json are answered, not: ' + args.join(' '));
  process.exitCode = 1;
}
