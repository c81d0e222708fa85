#!/usr/bin/env bash
# Builds, then writes the pages of the library's API to dist/api, from the docstrings. TypeDoc and the TypeScript that it works with are
# fetched from npm at fixed versions: the project's own TypeScript has no programming interface. A warning fails.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/build.sh >&2
cat > dist/typedoc.tsconfig.json <<'JSON'
{
  "extends": "../tsconfig.json",
  "compilerOptions": { "noEmit": true, "rootDir": ".." },
  "include": [],
  "files": ["lib/index.d.mts"]
}
JSON
npm exec --yes --package=typedoc@0.28.20 --package=typescript@5.9.3 -- typedoc --tsconfig dist/typedoc.tsconfig.json \
  --entryPoints dist/lib/index.d.mts --out dist/api --name clipfs --readme none --treatWarningsAsErrors
