// Takes libzstd's decoder, compiled to WebAssembly, out of the zstddec package, which keeps it as text inside its own wrapper.
// That wrapper is of no use here: it ignores errors, and an error makes it loop. Usage: extract-zstd.mjs TARGET
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

/** Of zstddec 0.3.4, dist/zstddec-stream.mjs: the version that was reviewed, measured and fuzzed. */
const SHA256 = '793b767467d8effccc43e8198c854f587835493a748512fa4352837a96fd1060';

const target = process.argv[2];
const module = createRequire(import.meta.url).resolve('zstddec/stream');
const source = readFileSync(module, 'utf8');
const wasm = Buffer.from(/"(AGFzbQ[A-Za-z0-9+/=]+)"/.exec(source)?.[1] ?? '', 'base64');
const found = createHash('sha256').update(wasm).digest('hex');
if (found !== SHA256) {
  console.error(`clip: the WebAssembly in zstddec has sha256 ${found}, not ${SHA256}: see scripts/extract-zstd.mjs`);
  process.exit(1);
}
mkdirSync(path.dirname(target), { recursive: true });
// Its licence goes with it.
copyFileSync(path.join(path.dirname(module), '../LICENSE'), `${target}.LICENSE`);
writeFileSync(`${target}.new`, wasm);
renameSync(`${target}.new`, target);
