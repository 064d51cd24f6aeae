// Runs the forge tests: `node test.cjs [arguments of forge test]`.
'use strict';
const { spawnSync } = require('child_process');
const path = require('path');

const forge = path.join(__dirname, 'node_modules', '@foundry-rs', 'forge', 'bin.mjs');
const run = spawnSync(process.execPath, [forge, 'test', '--root', __dirname, ...process.argv.slice(2)], { stdio: 'inherit', cwd: __dirname });
process.exitCode = run.status === null ? 1 : run.status;
