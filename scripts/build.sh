#!/usr/bin/env bash
# Builds dist/: the WebAssembly kernel, TypeScript, and from it dist/lib/, the programs as they ship. With --if-needed (npm's prepare step) only when dist/ is absent.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = --if-needed ] && [ -e dist/lib/clipctl.js ]; then exit 0; fi
scripts/with-deps.sh
export PATH="$PWD/node_modules/.bin:$PATH"
exec 9<scripts/build.sh # one build at a time
flock 9
status=0 # both compilers run, whatever the first one says
mkdir -p dist/src/gzip
# Twice: a module says of the memory it imports whether that is shared between threads.
for name in inflate inflate-shared; do
  wasm=src/gzip/$name.wasm
  if [ -e src/gzip/assembly/index.ts ] && { [ ! -e $wasm ] || [ -n "$(find src/gzip/assembly package-lock.json -newer $wasm)" ]; }; then
    flags=()
    if [ $name = inflate-shared ]; then flags=(--sharedMemory --enable threads); fi
    asc src/gzip/assembly/index.ts --config src/gzip/assembly/asconfig.json "${flags[@]}" --outFile $wasm.new && mv $wasm.new $wasm || status=1
  fi
  if [ -e $wasm ] && ! cmp -s $wasm dist/src/gzip/$name.wasm; then cp $wasm dist/src/gzip/$name.wasm; fi
done
[ -e dist/src/zstd/zstd.wasm ] || node scripts/extract-zstd.mjs dist/src/zstd/zstd.wasm || status=1
# A test whose source is gone must not go on running.
find dist -path dist/lib -prune -o -name '*.js' -print | while read -r js; do
  ts=${js#dist/}
  [ -e "${ts%.js}.ts" ] || rm -f "$js" "$js.map" "${js%.js}.d.ts"
done
# Incremental: only what changed is written again, so a build does not pull files from under a running program.
tsc -p tsconfig.json --incremental --tsBuildInfoFile dist/.tsbuildinfo || status=1
[ $status = 0 ] && node scripts/bundle.mjs || status=1
exit $status
