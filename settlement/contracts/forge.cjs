// Where npm put the native forge of this machine.
//
// package.json names the platform packages and not `@foundry-rs/forge` above them: that one's launcher ends with exit code 0 whatever forge
// found, and it asks for platforms that the registry doesn't have, which breaks `npm ci`.
'use strict';
const path = require('path');

const PLATFORM = `${process.platform}-${{ x64: 'amd64', arm64: 'arm64' }[process.arch]}`;

function forge() {
  try {
    const folder = path.dirname(require.resolve(`@foundry-rs/forge-${PLATFORM}/package.json`));
    return path.join(folder, 'bin', process.platform === 'win32' ? 'forge.exe' : 'forge');
  } catch {
    throw new Error(`no forge for ${PLATFORM} in node_modules: run \`npm ci --ignore-scripts\`, or install forge 1.7.1 by hand`);
  }
}

module.exports = { FORGE: process.env.FORGE || forge() };
