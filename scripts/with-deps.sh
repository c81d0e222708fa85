#!/usr/bin/env bash
# Runs a command with the npm dependencies in place: installs them when they are missing or older than the lock file.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  echo "clip: installing npm dependencies" >&2
  npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2
  touch node_modules/.package-lock.json
fi
[ $# -eq 0 ] || PATH="$PWD/node_modules/.bin:$PATH" exec "$@"
