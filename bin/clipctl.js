#!/usr/bin/env sh
':' /*
# For a shell this file is what follows, for Node a comment and what stands behind it.

# A clipd that runs keeps a client ready (docs/internals/start.md, "The client in reserve"): it needs no time to start. The shell proves that it
# is alive, takes it by making a file that nobody else has made, gives it this process's id, and prints what it answers: lines of output (o) and
# of errors (e), the exit code (x), or that the call needs a process of its own (d), as it does when the client is gone.
w="$* ${OTEL_EXPORTER_OTLP_ENDPOINT-}${OTEL_EXPORTER_OTLP_TRACES_ENDPOINT-}"
case $w in
*[sS]3* | *https:* | *' --cid'* | *' --foreground'* | *' --image'* | *' --help'*) ;;
'mount '* | 'umount '*)
  d=${CLIP_ROOT:-/run/clip}
  [ -O "$d" ] || d=${XDG_RUNTIME_DIR-}/clip
  o=
  for a; do
    [ "$o" != --root ] || d=$a
    case $a in --root=*) d=${a#*=} ;; esac
    o=$a
  done
  d=$d/clipd.spare
  if [ -O "$d" ] && [ -z "${NODE_OPTIONS-}" ] && ! [ -t 2 ] &&
    { read -r p n b <"$d/id"; } 2>/dev/null && [ "$0" -ef "$b" ] && [ "/proc/$p/fd/$n" -ef "$d/$p.call" ]; then
    set -C
    if { echo $$ >"$d/$p.claim"; } 2>/dev/null; then
      c= s=
      trap 's=1 c=129; kill -HUP $p' HUP
      trap 's=1 c=130; kill -INT $p' INT
      trap 's=1 c=143; kill -TERM $p' TERM
      {
        echo $$ >"$d/$p.call"
        while :; do
          if IFS= read -r l <&3; then
            case $l in
            o*) printf '%s\n' "${l#o}" ;;
            e*) printf '%s\n' "${l#e}" >&2 ;;
            x*) exit "${l#x}" ;;
            d) break ;;
            esac
          elif [ -n "$s" ]; then
            s= # the signal ended the read, and not the client
          else
            break
          fi
        done
      } 3<"$d/$p.answer"
      [ -z "$c" ] || exit $c
      trap - HUP INT TERM
    fi
    set +C
  fi
  ;;
esac

# Node parses the file that NODE_EXTRA_CA_CERTS names before it runs anything, which takes 45 ms for a system's bundle. These commands make no
# TLS connection by Node's own settings (those to S3 and to a collector of traces are such; those to registries are not), so the variable is
# put aside for Node's start.
case "${NODE_EXTRA_CA_CERTS:+$1} $w" in
*[sS]3* | *https:*) ;;
'mount '* | 'run '* | 'index '* | 'umount '* | 'ps '* | 'stats '* | 'health '* | '--version '*)
  CLIP_NODE_EXTRA_CA_CERTS=$NODE_EXTRA_CA_CERTS
  export CLIP_NODE_EXTRA_CA_CERTS
  unset NODE_EXTRA_CA_CERTS
  ;;
esac
# The "--": without it Node takes an --env-file among clipctl's own arguments for one of its own.
exec node -- "$0" "$@"
*/
const { existsSync } = require('node:fs');
const { join } = require('node:path');

const held = process.env.CLIP_NODE_EXTRA_CA_CERTS;
if (held !== undefined) {
  process.env.NODE_EXTRA_CA_CERTS = held;
  delete process.env.CLIP_NODE_EXTRA_CA_CERTS;
}
const main = join(__dirname, '../dist/lib/clipctl.js');
if (existsSync(main)) require(main);
else {
  process.stderr.write('clipctl: not built yet: run "npm run build" in this checkout\n');
  process.exitCode = 1;
}
