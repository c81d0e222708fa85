#!/usr/bin/env bash
# Builds, then runs a compiled program of the project: run.sh bench/main.js ARGS...
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."
scripts/build.sh >&2
program=$PWD/dist/$1
shift
cd "$here"
exec node "$program" "$@"
