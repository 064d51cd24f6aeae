#!/bin/sh
# Forge's way to npm's solc: see solc-wrap.cjs.
exec node "$(dirname "$0")/solc-wrap.cjs" "$@"
