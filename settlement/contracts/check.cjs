// Recompiles every contract and compares with the committed artifacts, byte by byte; then checks the sources' format.
// Exit code 1 on any difference.
'use strict';
const { spawnSync } = require('child_process');
const fs = require('fs');
const path = require('path');
const { compile } = require('./compile.cjs');
const { FORGE } = require('./forge.cjs');

const FOLDER = path.join(__dirname, '..', 'artifacts');
const made = compile();
const stored = fs.readdirSync(FOLDER).filter((name) => name.endsWith('.json'));
const wrong = [];
for (const name of new Set([...made.keys(), ...stored])) {
  if (!made.has(name)) wrong.push(name + ' has no contract');
  else if (!stored.includes(name)) wrong.push(name + ' is missing');
  else if (fs.readFileSync(path.join(FOLDER, name), 'utf8') !== made.get(name)) wrong.push(name + ' differs');
}
if (wrong.length === 0) {
  console.log(`${made.size} artifacts match their sources`);
} else {
  console.error(wrong.join('\n') + '\nrun `npm run compile` in settlement/contracts and commit settlement/artifacts');
  process.exitCode = 1;
}

const format = spawnSync(FORGE, ['fmt', '--check', '--root', __dirname], { stdio: 'inherit', cwd: __dirname });
if (format.error) throw format.error;
if (format.status !== 0) {
  console.error('run `npm run fmt` in settlement/contracts');
  process.exitCode = 1;
}
