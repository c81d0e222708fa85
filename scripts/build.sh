#!/usr/bin/env bash
# Builds dist/: the WebAssembly kernel, TypeScript, and from it dist/lib/, the programs as they ship. With --if-needed (npm's prepare
# step) only if dist/ is absent.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = --if-needed ] && [ -e dist/lib/clipctl.js ]; then exit 0; fi
scripts/with-deps.sh
export PATH="$PWD/node_modules/.bin:$PATH"
exec 9<scripts/build.sh # one build at a time
flock 9
status=0 # both compilers run, even if the first one fails
mkdir -p dist/src/gzip
# Twice, because a module declares whether its imported memory is shared between threads.
for name in inflate inflate-shared fold fold-shared; do
  wasm=src/gzip/$name.wasm
  source=src/gzip/assembly/${name%-shared}.ts
  if [ -e $source ] && { [ ! -e $wasm ] || [ -n "$(find src/gzip/assembly package-lock.json -newer $wasm)" ]; }; then
    flags=()
    if [[ $name = *-shared ]]; then flags=(--sharedMemory --enable threads); fi
    asc $source --config src/gzip/assembly/asconfig.json "${flags[@]}" --outFile $wasm.new && mv $wasm.new $wasm || status=1
  fi
  if [ -e $wasm ] && ! cmp -s $wasm dist/src/gzip/$name.wasm; then cp $wasm dist/src/gzip/$name.wasm; fi
done
mkdir -p dist/src/bytes dist/src/startup dist/src/container
for name in bytes/crc64:1 startup/search:9; do # and the pages of its memory
  wasm=src/${name%:*}.wasm source=src/${name%%/*}/assembly
  if [ ! -e $wasm ] || [ -n "$(find $source package-lock.json -newer $wasm)" ]; then
    asc $source/$(basename $wasm .wasm).ts --optimizeLevel 3 --converge --noAssert --runtime stub --enable simd \
      --initialMemory ${name#*:} --maximumMemory ${name#*:} --outFile $wasm.new && mv $wasm.new $wasm || status=1
  fi
  cmp -s $wasm dist/$wasm || cp $wasm dist/$wasm
done
cmp -s src/container/seccomp-moby.json dist/src/container/seccomp-moby.json || cp src/container/seccomp-moby.json dist/src/container/
[ -e dist/src/zstd/zstd.wasm ] || node scripts/extract-zstd.mjs dist/src/zstd/zstd.wasm || status=1
# A test without a source file must not run.
find dist -path dist/lib -prune -o -name '*.js' -print | while read -r js; do
  ts=${js#dist/}
  [ -e "${ts%.js}.ts" ] || rm -f "$js" "$js.map" "${js%.js}.d.ts"
done
# Incremental: only changed files are written, so a build does not replace files of a running program.
tsc -p tsconfig.json --incremental --tsBuildInfoFile dist/.tsbuildinfo || status=1
[ $status = 0 ] && node scripts/bundle.mjs || status=1
exit $status
