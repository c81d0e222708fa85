#!/usr/bin/env bash
# Builds, installs what the tests need from Debian, and runs the tests. Arguments go to vitest: npm test -- gzip
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/build.sh
scripts/debian-packages.sh
export PATH="$PWD/node_modules/.bin:$PATH"
exec vitest run "$@"
