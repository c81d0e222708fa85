import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Clipctl } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { sha256Of } from '../support/mounted.js';
import { dir, file, tar } from '../support/tar.js';

// The n-th open, read, write, mapping or allocation fails. Whatever is printed or read then is right, or it is an error. Every n of the
// first ones is tried, then fewer and fewer, until no call is left to fail; with CLIP_SWEEP=all every n (an hour).

const SOURCE = fileURLToPath(new URL('../../../test/support/failing-calls.c', import.meta.url));
const CALLS = [
  ['open', 'EMFILE'],
  ['read', 'EIO'],
  ['write', 'ENOSPC'],
  ['mmap', 'ENOMEM'],
  ['malloc', 'ENOMEM'],
] as const;

const ALL = process.env.CLIP_SWEEP === 'all';
const TIMEOUT_MS = ALL ? 4 * 3600_000 : 240_000;

/** Up to `dense` every number, then each half as large again. */
function* numbers(dense: number): Generator<number> {
  for (let n = 1; ; n = ALL || n < dense ? n + 1 : Math.ceil(n * 1.5)) yield n;
}

let clip: Clipctl;
let image: ReturnType<typeof writeImage>;
let library: string;
let honest: Buffer;
const content = layerLike(3e6, 7);

beforeAll(async () => {
  clip = await Clipctl.create();
  library = clip.path('failing-calls.so');
  execFileSync('gcc', ['-shared', '-fPIC', '-O1', '-o', library, SOURCE, '-ldl']);
  image = writeImage([tar(dir('d'), file('d/large', content))], { config: { Cmd: ['/bin/sh'] } });
  await clip.ok('index', '--image', image.reference, '--out', clip.path('honest.clip'));
  honest = readFileSync(clip.path('honest.clip'));
});
afterAll(async () => {
  image.remove();
  await clip.close();
});

function failing(call: string, error: keyof typeof constants.errno, nth: number, below: string) {
  const fired = clip.path('fired');
  rmSync(fired, { force: true });
  const env = {
    LD_PRELOAD: library,
    CLIP_FAIL_CALL: call,
    CLIP_FAIL_NTH: String(nth),
    CLIP_FAIL_ERRNO: String(constants.errno[error]),
    CLIP_FAIL_BELOW: below,
    CLIP_FAIL_FIRED: fired,
  };
  return { env, hasFired: () => existsSync(fired) };
}

describe.each(CALLS)('the n-th %s fails with %s', (call, error) => {
  test('while an image is indexed: the archive is whole, or there is none', { timeout: TIMEOUT_MS }, async () => {
    let failures = 0;
    for (const nth of numbers(8)) {
      // What is written lies in a directory of its own, what is read in the layout.
      rmSync(clip.path('out'), { recursive: true, force: true });
      const out = await clip.place('out');
      const { env, hasFired } = failing(call, error, nth, call === 'write' ? out : image.layout.directory);
      const ran = await clip.run(['index', '--image', image.reference, '--out', `${out}/i.clip`], { env });
      if (!hasFired()) {
        expect(ran.code).toBe(0);
        break;
      }
      failures++;
      if (ran.code === 0) expect(readFileSync(`${out}/i.clip`).equals(honest)).toBe(true);
      else {
        // It may have died after the archive was there: whole, then.
        const left = existsSync(`${out}/i.clip`) && !readFileSync(`${out}/i.clip`).equals(honest);
        expect([nth, left]).toEqual([nth, false]);
        if (ran.code === 1) expect([readdirSync(out), ran.stderr]).toEqual([[], expect.stringMatching(/^clipctl: /m)]);
      }
    }
    expect(failures).toBeGreaterThan(0);
    if (ALL) process.stdout.write(`${call}: ${failures} failures\n`);
  });

  test('while an image is mounted and read: bytes are right, or reads fail', { timeout: TIMEOUT_MS }, async () => {
    let failures = 0;
    for (const nth of numbers(4)) {
      const place = await clip.place('place');
      // A clipd of its own for each: root and cache lie below the directory whose files fail.
      const { env, hasFired } = failing(call, error, nth, `${clip.directory}/`);
      const mounted = await clip.run(
        ['mount', '--clip', clip.path('honest.clip'), '--at', place, '--no-readahead', '--read-timeout', '5'],
        { env },
      );
      if (mounted.code === 0) {
        for (let i = 0; i < 2; i++) {
          const bytes = await readFile(`${place}/d/large`).catch((cause: NodeJS.ErrnoException) => cause);
          if (Buffer.isBuffer(bytes)) expect(sha256Of(bytes)).toBe(sha256Of(content));
          else expect(['EIO', 'ENOTCONN', 'EINTR']).toContain(bytes.code);
        }
      } else if (mounted.signal === null) expect(mounted.stderr).toMatch(/^clipctl: /m);
      const fired = hasFired();
      if (fired) failures++;
      await clip.stop();
      for (const left of clip.mounts().reverse()) execFileSync('umount', ['-l', left]);
      expect(readdirSync(place)).toEqual([]);
      for (const name of ['root', 'cache']) rmSync(clip.path(name), { recursive: true, force: true });
      if (!fired) break;
    }
    expect(failures).toBeGreaterThan(0);
    if (ALL) process.stdout.write(`${call}: ${failures} failures\n`);
  });
});
