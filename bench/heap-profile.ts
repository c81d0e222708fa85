/**
 * The allocations of a cache hit: a FUSE worker's own code for a READ (parse, map, load the generations, preadv2, reply), run a
 * million times in this thread under V8's sampling heap profiler, garbage included.
 *
 * `node dist/bench/heap-profile.js [OUT.heapprofile]`: the file opens in Chrome's DevTools, Memory.
 */
import { closeSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { type HeapProfiler, Session } from 'node:inspector';
import os from 'node:os';
import path from 'node:path';
import { ErofsReader } from '../src/erofs/index.js';
import { IN, IN_HEADER, Op, READ_IN, READ_IN_SIZE } from '../src/fuse/abi.js';
import { Dispatcher } from '../src/fuse/dispatch.js';
import { WorkerMemory } from '../src/fuse/worker-memory.js';
import { sys } from '../src/linux/index.js';
import { sharedLayer } from '../test/support/fuse-plane.js';
import { buildErofs } from '../test/support/planes.js';
import { file, tar } from '../test/support/tar.js';

const FILE_BYTES = 32 << 20;
const HITS = 1_000_000;
/** Runs until V8 has compiled the code. */
const WARM_UP = 50_000;
const PAGE = 4096;

export interface HitAllocations {
  readonly bytesPerHit: number;
  /** Functions that allocated, most first, with their bytes over all hits. */
  readonly sites: readonly { readonly name: string; readonly bytes: number }[];
  readonly profile: HeapProfiler.SamplingHeapProfile;
}

export function measureHits(): HitAllocations {
  const layer = tar(file('file', Buffer.alloc(FILE_BYTES, 'clip')));
  const { image, placement } = buildErofs([layer]);
  const cacheFile = path.join(os.tmpdir(), `clip-heap-${process.pid}`);
  writeFileSync(cacheFile, layer);
  const fd = openSync(cacheFile, 'r');
  const sink = openSync('/dev/null', 'w');
  rmSync(cacheFile);
  try {
    const reader = new ErofsReader(image);
    const served = { reader, placement, layers: [sharedLayer(0, fd, layer.length, 2 << 20)] };
    const memory = new WorkerMemory();
    const nothing = (): void => {};
    const dispatcher = new Dispatcher(memory.request, memory.reply, (from, position, length, offset) =>
      memory.readFile(from, position, length, offset, nothing),
    );
    const length = IN_HEADER + READ_IN_SIZE;
    const request = new DataView(memory.request.buffer, memory.request.byteOffset);
    memory.request.fill(0, 0, length); // the memory is not cleared, and an offset has 64 bits
    request.setUint32(IN.len, length, true);
    request.setUint32(IN.opcode, Op.READ, true);
    request.setBigUint64(IN.nodeid, BigInt(reader.lookupPath(Buffer.from('file'))), true);
    request.setUint32(IN_HEADER + READ_IN.size, PAGE, true);
    const hit = (i: number): void => {
      request.setUint32(IN.unique, i, true);
      request.setUint32(IN_HEADER + READ_IN.offset, ((i * 7919) % (FILE_BYTES / PAGE)) * PAGE, true);
      const reply = dispatcher.handle(served, length);
      const written = reply > PAGE ? sys.write(sink, memory.replyAddress, reply) : 0;
      if (reply <= PAGE || written !== reply)
        throw new Error(`hit ${i}: a reply of ${reply} bytes, ${written} written`);
    };
    for (let i = 0; i < WARM_UP; i++) hit(i);
    const profile = sampled(() => {
      for (let i = 0; i < HITS; i++) hit(i);
    });
    const sites = new Map<string, number>();
    collect(profile.head, sites);
    const bytes = [...sites.values()].reduce((sum, n) => sum + n, 0);
    return {
      bytesPerHit: bytes / HITS,
      sites: [...sites].map(([name, n]) => ({ name, bytes: n })).sort((a, b) => b.bytes - a.bytes),
      profile,
    };
  } finally {
    closeSync(fd);
    closeSync(sink);
  }
}

function sampled(run: () => void): HeapProfiler.SamplingHeapProfile {
  const session = new Session();
  session.connect();
  let profile: HeapProfiler.SamplingHeapProfile | null = null;
  // Collected objects count as well. (@types/node lacks the two flags.)
  const options = {
    samplingInterval: 4096,
    includeObjectsCollectedByMajorGC: true,
    includeObjectsCollectedByMinorGC: true,
  };
  session.post('HeapProfiler.startSampling', options);
  run();
  session.post('HeapProfiler.stopSampling', (error, result) => {
    if (error === null) profile = result.profile;
  });
  session.disconnect();
  if (profile === null) throw new Error('no heap profile');
  return profile;
}

function collect(node: HeapProfiler.SamplingHeapProfileNode, into: Map<string, number>): void {
  const { functionName, url, lineNumber } = node.callFrame;
  const name = `${functionName || '(anonymous)'} ${path.basename(url)}:${lineNumber + 1}`;
  if (node.selfSize > 0) into.set(name, (into.get(name) ?? 0) + node.selfSize);
  for (const child of node.children) collect(child, into);
}

if (process.argv[1] === import.meta.filename) {
  const { bytesPerHit, sites, profile } = measureHits();
  const [, , out] = process.argv;
  if (out !== undefined) writeFileSync(out, JSON.stringify(profile));
  process.stdout.write(`${bytesPerHit.toFixed(2)} bytes of heap per hit, over ${HITS} hits\n`);
  for (const { name, bytes } of sites.slice(0, 10)) process.stdout.write(`${String(bytes).padStart(12)}  ${name}\n`);
}
