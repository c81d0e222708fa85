import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { type ReadMiss, replyData, replyError } from '../../src/fuse/index.js';
import { mountFuse, openFuseDevice, unmount } from '../../src/linux/index.js';
import { FusePlane } from '../support/fuse-plane.js';
import { buildErofs } from '../support/planes.js';
import { file, tar } from '../support/tar.js';

/** Requests that a worker cannot answer by itself: misses, interrupts, and requests that outlive their server. */
const root = process.getuid?.() === 0;
const content = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 31) % 253));
const layers = [tar(file('data', content), file('ready', 'here at once'))];
/** The layer offset of "ready": its span is put in place by hand. */
const SPAN = 4096;

let plane: FusePlane | null = null;
afterEach(async () => {
  await plane?.close();
  plane = null;
});

interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  out: string;
  err: string;
}

function run(command: string, ...args: string[]): { child: ChildProcess; ended: Promise<Ended> } {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  let err = '';
  child.stdout!.setEncoding('latin1').on('data', (text: string) => {
    out += text;
  });
  child.stderr!.setEncoding('latin1').on('data', (text: string) => {
    err += text;
  });
  const ended = once(child, 'close').then(([code, signal]) => ({ code, signal, out, err }) as Ended);
  return { child, ended };
}

/** A plane whose misses the test answers. */
async function holding(options: { onInterrupt?: (id: number, unique: bigint) => boolean } = {}) {
  const misses: ReadMiss[] = [];
  let arrived = (): void => {};
  plane = new FusePlane(layers, {
    present: false,
    spanBytes: SPAN,
    onMiss: (miss) => {
      misses.push(miss);
      arrived();
    },
    ...options,
  });
  // "ready" lies in the last spans, before the two blocks of zeros that end a tar.
  const { generations } = plane.layers[0]!;
  for (let span = generations.length - 2; span < generations.length; span++) generations[span] = 1;
  await plane.mount();
  const miss = async (count: number): Promise<ReadMiss> => {
    while (misses.length < count) {
      await new Promise<void>((resolve) => {
        arrived = resolve;
      });
    }
    return misses[count - 1]!;
  };
  return { plane, misses, miss };
}

/** A read past the page cache: its process waits for the request itself. (One that waits for a page needs no INTERRUPT to die.) */
function directRead(held: FusePlane): [string, ...string[]] {
  return ['dd', `if=${join(held.mountPoint, 'data')}`, 'bs=4096', 'count=1', 'iflag=direct'];
}

describe.skipIf(!root)('misses', () => {
  it('are answered by the I/O thread, in pieces', async () => {
    const { plane: held, miss } = await holding();
    const { ended } = run('head', '-c', '20000', join(held.mountPoint, 'data'));
    const first = await miss(1);
    expect(first.offset).toBe(0);
    const end = Math.min(content.length, first.size);
    replyData(held.fd, first.unique, [content.subarray(0, 1), content.subarray(1, 5000), content.subarray(5000, end)]);
    // Read-ahead may ask for more.
    for (let n = 2; ; n++) {
      const next = await Promise.race([miss(n), ended.then(() => null)]);
      if (next === null) break;
      replyData(held.fd, next.unique, [content.subarray(next.offset, next.offset + next.size)]);
    }
    expect((await ended).out).toBe(content.subarray(0, 20_000).toString('latin1'));
  });

  it('that fail are an error of the read, and the next read asks again', async () => {
    const { plane: held, misses } = await holding();
    const answer = setInterval(() => {
      for (const miss of misses.splice(0)) replyError(held.fd, miss.unique, 5);
    }, 5);
    const failed = await run('cat', join(held.mountPoint, 'data')).ended;
    expect(failed.err).toMatch(/Input\/output error/);
    clearInterval(answer);
    const { ended } = run(...directRead(held));
    while (misses.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    for (const miss of misses) {
      replyData(held.fd, miss.unique, [content.subarray(miss.offset, miss.offset + miss.size)]);
    }
    expect((await ended).out.length).toBe(4096);
  });

  it('do not hold up hits: 200 stuck ones, and a file that is here', async () => {
    const { plane: held, misses } = await holding();
    const stuck = Array.from({ length: 200 }, (_, i) =>
      run('dd', `if=${join(held.mountPoint, 'data')}`, 'bs=1024', 'count=1', `skip=${i}`, 'iflag=direct'),
    );
    while (misses.length < 200) await new Promise((resolve) => setTimeout(resolve, 10));
    const times: number[] = [];
    for (let i = 0; i < 20; i++) {
      execFileSync('sh', ['-c', `echo 1 > /proc/sys/vm/drop_caches`]);
      const start = performance.now();
      expect(readFileSync(join(held.mountPoint, 'ready'), 'utf8')).toBe('here at once');
      times.push(performance.now() - start);
    }
    expect(times.sort((a, b) => a - b)[10]).toBeLessThan(20);
    for (const miss of misses) replyError(held.fd, miss.unique, 5);
    await Promise.all(stuck.map(({ ended }) => ended));
  });

  it('let go of a reader that is killed', async () => {
    const { plane: held, miss } = await holding({
      onInterrupt: (_, unique) => {
        replyError(held.fd, unique, 4); // EINTR
        return true;
      },
    });
    const { child, ended } = run(...directRead(held));
    await miss(1);
    const start = performance.now();
    child.kill('SIGKILL');
    expect((await ended).signal).toBe('SIGKILL');
    expect(performance.now() - start).toBeLessThan(1000);
    expect(held.pool.stats().interrupts).toBeGreaterThan(0);
  });

  it('let go of one that waits for a page, too', async () => {
    const { plane: held, miss } = await holding();
    const { child, ended } = run('cat', join(held.mountPoint, 'data'));
    const first = await miss(1);
    child.kill('SIGKILL');
    expect((await ended).signal).toBe('SIGKILL');
    replyError(held.fd, first.unique, 5);
  });

  it('are interrupted even when the news of it comes before the miss is known', async () => {
    let told = 0;
    const { plane: held, miss } = await holding({
      onInterrupt: (_, unique) => {
        if (++told < 4) return false; // EAGAIN: the kernel asks again
        replyError(held.fd, unique, 4);
        return true;
      },
    });
    const { child, ended } = run(...directRead(held));
    await miss(1);
    child.kill('SIGKILL');
    expect((await ended).signal).toBe('SIGKILL');
    expect(told).toBe(4);
  });
});

describe.skipIf(!root)('a server that is killed', () => {
  const directory = mkdtempSync(join(tmpdir(), 'clip-takeover-'));
  const child = fileURLToPath(new URL('../support/fuse-child.js', import.meta.url));
  const serve = (fd: number, how: 'fresh' | 'resumed', cache: 'present' | 'stuck' | 'answer') => {
    const process_ = spawn(
      process.execPath,
      [child, join(directory, 'tree'), join(directory, 'layer'), '65536', how, cache],
      { stdio: ['ignore', 'pipe', 'inherit', fd] },
    );
    let text = '';
    const waiting: { pattern: RegExp; resolve: (line: string) => void }[] = [];
    process_.stdout!.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
      for (const { pattern, resolve } of waiting) if (pattern.test(text)) resolve(text);
    });
    const says = (pattern: RegExp): Promise<string> =>
      new Promise((resolve) => {
        waiting.push({ pattern, resolve });
        if (pattern.test(text)) resolve(text);
      });
    return { process: process_, says };
  };

  it('is replaced, and its readers never notice', async () => {
    const mountPoint = join(directory, 'mnt');
    mkdirSync(mountPoint);
    writeFileSync(join(directory, 'tree'), buildErofs(layers).image);
    writeFileSync(join(directory, 'layer'), layers[0]!);
    const fd = openFuseDevice(); // the keeper's: this process
    mountFuse({ fd, target: mountPoint, source: 'clip-test', subtype: 'clip' });
    let server = serve(fd, 'fresh', 'stuck');
    try {
      await server.says(/ready true/);
      const reader = run('cat', join(mountPoint, 'data'));
      await server.says(/miss 0/);
      for (let i = 0; i < 3; i++) {
        server.process.kill('SIGKILL');
        await once(server.process, 'exit');
        server = serve(fd, 'resumed', i < 2 ? 'stuck' : 'answer');
        await server.says(/ready true/);
        await server.says(/miss 0/); // the same read, sent again
      }
      expect((await reader.ended).out).toBe(content.toString('latin1'));
      // Requests that come while no server runs are not lost.
      server.process.kill('SIGKILL');
      await once(server.process, 'exit');
      const late = run('sha256sum', join(mountPoint, 'ready'));
      await new Promise((resolve) => setTimeout(resolve, 100));
      server = serve(fd, 'resumed', 'present');
      expect((await late.ended).code).toBe(0);
    } finally {
      unmount(mountPoint, 'lazy');
      closeSync(fd);
      await once(server.process, 'exit');
      rmSync(directory, { recursive: true, force: true });
    }
  });

  it('takes no mount when it is not running, and lets go of any', async () => {
    const idle = new FusePlane(layers);
    await expect(idle.pool.attach(idle.spec())).rejects.toThrow(/not running/);
    await idle.pool.detach(1);
    await idle.close();
    await expect(idle.pool.attach(idle.spec())).rejects.toThrow(/not running/);
  });

  it('ends at once when told to, though its workers sleep in the kernel', () => {
    const index = fileURLToPath(new URL('../../src/fuse/index.js', import.meta.url));
    const script = `const { FusePool } = await import(${JSON.stringify(index)});
      const pool = new FusePool({ workers: 3, onMiss() {}, onInterrupt() { return false; }, onGone() {} });
      await pool.complete(); process.exit(7);`;
    const start = performance.now();
    expect(() => execFileSync(process.execPath, ['--input-type=module', '-e', script], { timeout: 10_000 })).toThrow(
      expect.objectContaining({ status: 7 }),
    );
    expect(performance.now() - start).toBeLessThan(5000);
  });
});
