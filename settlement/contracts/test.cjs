// Runs the forge tests: `node test.cjs [arguments of forge test]`. The exit code is forge's.
'use strict';
const { spawnSync } = require('child_process');
const { FORGE } = require('./forge.cjs');

const run = spawnSync(FORGE, ['test', '--root', __dirname, ...process.argv.slice(2)], { stdio: 'inherit', cwd: __dirname });
if (run.error) throw run.error;
process.exitCode = run.status === null ? 1 : run.status;
