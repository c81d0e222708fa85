#!/bin/sh
# clipctl in one file: a gzipped tar with Node follows this script. The first start of a user unpacks it; later ones only run it.
# CLIP_PROGRAM_DIR names another directory for that.
set -eu
fail() { echo "clipctl: $1" >&2; exit 1; }
if [ -n "${CLIP_PROGRAM_DIR:-}" ]; then base=$CLIP_PROGRAM_DIR
elif [ "$(id -u)" = 0 ]; then base=/var/lib/clip/program
else base=${XDG_DATA_HOME:-${HOME:?clipctl: HOME is not set: give CLIP_PROGRAM_DIR}/.local/share}/clip/program
fi
home=$base/@ID@
if [ ! -x "$home/node" ]; then
  umask 022
  mkdir -p "$base" || fail "cannot make $base: give CLIP_PROGRAM_DIR"
  new=$(mktemp -d "$base/.new.XXXXXX") || fail "cannot write to $base: give CLIP_PROGRAM_DIR"
  chmod 755 "$new"
  # Under its final name only when it is whole; another process may be as far at the same time.
  if ! tail -n +@LINES@ "$0" | gzip -dc | tar -xof - -C "$new"; then rm -rf "$new"; fail "cannot unpack into $base: is the disk full, or this file cut off?"; fi
  mv -T "$new" "$home" 2>/dev/null || rm -rf "$new"
fi
# Programs that another user can replace are not run.
[ -O "$home" ] || fail "$home belongs to another user: give CLIP_PROGRAM_DIR"
exec "$home/node" -- "$home/bin/clipctl.js" "$@"
