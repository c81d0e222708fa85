#!/usr/bin/env bash
# Builds dist/: the WebAssembly kernel, then TypeScript. With --if-needed (npm's prepare step) only when dist/ is absent.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = --if-needed ] && [ -e dist/src/cli/main.js ]; then exit 0; fi
scripts/with-deps.sh
export PATH="$PWD/node_modules/.bin:$PATH"
wasm=src/gzip/inflate.wasm
if [ -e src/gzip/assembly/index.ts ] && { [ ! -e $wasm ] || [ -n "$(find src/gzip/assembly package-lock.json -newer $wasm)" ]; }; then
  asc src/gzip/assembly/index.ts --config src/gzip/assembly/asconfig.json --outFile $wasm
fi
tsc -p tsconfig.json
[ ! -e $wasm ] || cp $wasm dist/src/gzip/inflate.wasm
