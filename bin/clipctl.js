#!/usr/bin/env sh
':' //; case "${NODE_EXTRA_CA_CERTS:+$1} $* ${OTEL_EXPORTER_OTLP_ENDPOINT-}${OTEL_EXPORTER_OTLP_TRACES_ENDPOINT-}" in *[sS]3*|*https:*) ;; 'mount '*|'run '*|'index '*|'umount '*|'ps '*|'stats '*|'health '*|'--version '*) CLIP_NODE_EXTRA_CA_CERTS=$NODE_EXTRA_CA_CERTS; export CLIP_NODE_EXTRA_CA_CERTS; unset NODE_EXTRA_CA_CERTS;; esac; exec node -- "$0" "$@"
// For a shell this file is the line above, for Node what follows. Node parses the file that NODE_EXTRA_CA_CERTS names before it runs
// anything, which takes 45 ms for a system's bundle. These commands make no TLS connection by Node's own settings (those to S3 and to a
// collector of traces are such; those to registries are not), so the variable is put aside for Node's start.
// The "--": without it Node takes an --env-file among clipctl's own arguments for one of its own.
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
