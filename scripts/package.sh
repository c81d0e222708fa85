#!/usr/bin/env bash
# Builds, then makes the packages: package.mjs says which, and its flags.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/build.sh >&2
exec node scripts/package.mjs "$@"
