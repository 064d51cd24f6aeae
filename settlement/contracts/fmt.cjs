// Formats the sources and tests with forge.
'use strict';
const { spawnSync } = require('child_process');
const { FORGE } = require('./forge.cjs');

const run = spawnSync(FORGE, ['fmt', '--root', __dirname], { stdio: 'inherit', cwd: __dirname });
if (run.error) throw run.error;
process.exitCode = run.status === null ? 1 : run.status;
