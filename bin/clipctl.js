#!/usr/bin/env node
const { existsSync } = require('node:fs');
const { join } = require('node:path');

const main = join(__dirname, '../dist/lib/clipctl.js');
if (existsSync(main)) require(main);
else {
  process.stderr.write('clipctl: not built yet: run "npm run build" in this checkout\n');
  process.exitCode = 1;
}
