// Indexing through a link of a given rate and round trip, against the download alone through the same link; and an image that shares
// all but one small layer with one that was indexed before.
import { createHash } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { spawnProxy } from '../test/support/proxy-process.js';
import { file, tar } from '../test/support/tar.js';
import { RTT_MS } from './starts.js';
import { type BenchContext, type BenchImage, type Row, rated, run as runProgram, type SuiteResult } from './support.js';

const ROUNDS = 3;
const BYTES_PER_SECOND = 125e6;
const CLIPCTL = path.join(import.meta.dirname, '../../bin/clipctl.js');

/** Wall clock of `clipctl index`, start of the process included. */
async function index(reference: string, out: string, cache: string): Promise<number> {
  const args = ['index', '--image', reference, '--out', out, '--cache-dir', cache];
  return (await runProgram(CLIPCTL, args)).seconds;
}

/** All layers, three at a time, as docker pulls them, thrown away. */
async function download(host: string, repository: string, image: BenchImage): Promise<number> {
  const urls = image.layers.flatMap((layer) => {
    return ['-o', '/dev/null', `http://${host}/v2/${repository}/blobs/sha256:${path.basename(layer)}`];
  });
  return (await runProgram('curl', ['-sS', '--fail', '--parallel', '--parallel-max', '3', ...urls])).seconds;
}

async function throughLink(ctx: BenchContext, name: string, image: BenchImage, scratch: string): Promise<Row[]> {
  const [host, repository] = image.reference.replace(/:\w+$/, '').split(/\/(.*)/) as [string, string];
  const proxy = await spawnProxy({
    upstream: `http://${host}`,
    latencyMs: RTT_MS,
    bytesPerSecond: BYTES_PER_SECOND,
  });
  ctx.defer(() => proxy.stop());
  const reference = image.reference.replace(host, proxy.host);
  const [downloads, indexes]: [number[], number[]] = [[], []];
  let requests = 0;
  for (let round = 0; round < ROUNDS; round++) {
    downloads.push(await download(proxy.host, repository, image));
    await proxy.reset();
    // A cache of its own: a layer that is known would not be read.
    indexes.push(await index(reference, path.join(scratch, `${name}.clip`), path.join(scratch, `${name}-${round}`)));
    requests = (await proxy.requests()).length;
    ctx.log(`${name}: download ${downloads.at(-1)!.toFixed(2)} s, index ${indexes.at(-1)!.toFixed(2)} s`);
  }
  const [alone, best] = [Math.min(...downloads), Math.min(...indexes)];
  return [
    { metric: `${name}: download alone`, value: alone, unit: 's' },
    rated(`${name}: index`, best, 's', { value: best / alone, to: 'download' }, { atMost: 1.1 }),
    { metric: `${name}: requests of an index`, value: requests, unit: '' },
  ];
}

const sha256 = (bytes: Uint8Array | string): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

interface Described {
  readonly digest: string;
  readonly size: number;
}

/** The image with one small layer more, in its registry: "HOST/py:more". */
async function withAnotherLayer(image: BenchImage, scratch: string): Promise<string> {
  const layout = path.join(scratch, 'more');
  await runProgram('cp', ['-al', image.layout, layout]);
  const blobs = path.join(layout, 'blobs/sha256');
  const json = async (digest: string): Promise<Record<string, unknown>> =>
    JSON.parse(await readFile(path.join(blobs, digest.slice('sha256:'.length)), 'utf8')) as Record<string, unknown>;
  const store = async (bytes: Uint8Array | string): Promise<Described> => {
    const digest = sha256(bytes);
    await writeFile(path.join(blobs, digest.slice('sha256:'.length)), bytes);
    return { digest, size: Buffer.byteLength(bytes) };
  };
  const top = JSON.parse(await readFile(path.join(layout, 'index.json'), 'utf8')) as { manifests: Described[] };
  const manifest = (await json(top.manifests[0]!.digest)) as unknown as { config: Described; layers: object[] };
  const config = (await json(manifest.config.digest)) as { rootfs: { diff_ids: string[] }; history?: unknown };
  const layer = tar(file('srv/app.py', 'print("another image")\n'));
  const blob = { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', ...(await store(gzipSync(layer))) };
  const rootfs = { ...config.rootfs, diff_ids: [...config.rootfs.diff_ids, sha256(layer)] };
  const made = { ...manifest.config, ...(await store(JSON.stringify({ ...config, history: undefined, rootfs }))) };
  const other = { ...manifest, config: made, layers: [...manifest.layers, blob] };
  const entry = { ...top.manifests[0], ...(await store(JSON.stringify(other))) };
  await runProgram('rm', [path.join(layout, 'index.json')]); // it is a hard link
  await writeFile(path.join(layout, 'index.json'), JSON.stringify({ ...top, manifests: [entry] }));
  const reference = image.reference.replace(/:\w+$/, ':more');
  const args = ['--insecure-policy', 'copy', '--quiet', '--dest-tls-verify=false'];
  await runProgram('skopeo', [...args, `oci:${layout}`, `docker://${reference}`]);
  return reference;
}

async function sharedLayers(ctx: BenchContext, image: BenchImage, scratch: string): Promise<Row[]> {
  const other = await withAnotherLayer(image, scratch);
  const [firsts, seconds]: [number[], number[]] = [[], []];
  for (let round = 0; round < ROUNDS; round++) {
    const cache = path.join(scratch, `shared-${round}`);
    await mkdir(cache);
    firsts.push(await index(image.reference, path.join(scratch, 'first.clip'), cache));
    seconds.push(await index(other, path.join(scratch, 'second.clip'), cache));
    ctx.log(`first ${firsts.at(-1)!.toFixed(2)} s, second ${seconds.at(-1)!.toFixed(2)} s`);
  }
  const [first, second] = [Math.min(...firsts), Math.min(...seconds)];
  return [
    { metric: 'py: index, registry on loopback', value: first, unit: 's' },
    rated('py and one small layer: index', second, 's', { value: second / first, to: 'first' }, { atMost: 0.15 }),
  ];
}

export async function run(ctx: BenchContext): Promise<SuiteResult> {
  const scratch = await ctx.scratch();
  const python = await ctx.python();
  const rows = [...(await throughLink(ctx, 'py', python, scratch)), ...(await sharedLayers(ctx, python, scratch))];
  const node = await ctx.node();
  rows.push(...(await throughLink(ctx, 'node', node, scratch)));
  const title = `1 Gbit/s, ${RTT_MS} ms round trip, best of ${ROUNDS}; py in one layer, node in four`;
  return { title, rows };
}
