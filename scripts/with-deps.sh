#!/usr/bin/env bash
# Runs a command with the npm dependencies in place: installs them if they are missing or differ from the lock file.
set -euo pipefail
cd "$(dirname "$0")/.."
marker=node_modules/.package-lock.json

# The file times are a cheap first check only, because npm writes the marker before package-lock.json and git may touch
# package-lock.json; then the contents decide. npm ci must not run without need: it removes node_modules under running programs.
in_place() {
  [ -e $marker ] || return 1
  [ package-lock.json -nt $marker ] || return 0
  node -e '
    const [want, have] = ["package-lock.json", "'$marker'"].map((f) => JSON.parse(fs.readFileSync(f, "utf8")).packages);
    process.exit(Object.keys(want).every((k) => k === "" || (have[k] ? have[k].version === want[k].version : want[k].optional)) ? 0 : 1);
  ' && touch $marker
}

if ! in_place; then
  exec 9<package-lock.json # two scripts started side by side on a fresh clone: the second waits for the first
  flock 9
  if ! in_place; then
    echo "clip: installing npm dependencies" >&2
    npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2 9<&-
    touch $marker
  fi
  exec 9<&-
fi
[ $# -eq 0 ] || PATH="$PWD/node_modules/.bin:$PATH" exec "$@"
