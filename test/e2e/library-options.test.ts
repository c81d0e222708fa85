import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ClipError, createFromOCIImage, mountArchive } from '../../src/index.js';

// Options of a program without types: an error names the option, and nothing is started.

let directory: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'clip-options-'));
});
afterAll(() => rmSync(directory, { recursive: true }));

const usage = (message: string): unknown => expect.objectContaining({ constructor: ClipError, code: 'USAGE', message });

const index = { imageRef: 'oci:/nonexistent', outputPath: '/nonexistent/x.clip' };

test.each<[unknown, string]>([
  [undefined, 'options must be an object, but is missing'],
  [{}, 'options.imageRef must be a string, but is missing'],
  [{ imageRef: 'a' }, 'options.outputPath must be a string, but is missing'],
  [{ ...index, imageRef: 5 }, 'options.imageRef must be a string, not 5'],
  [
    { ...index, platform: 'linux'.split('') },
    'options.platform must be a string such as "linux/amd64", or { os, architecture }, not a list',
  ],
  [
    { ...index, platform: null },
    'options.platform must be a string such as "linux/amd64", or { os, architecture }, not null',
  ],
  [
    { ...index, credentials: { password: 12345 } },
    'options.credentials must be null, { username, password }, or an object with getCredentials(), not an object',
  ],
  [{ ...index, hashes: 'yes' }, 'options.hashes must be true or false, not "yes"'],
  [{ ...index, signal: {} }, 'options.signal must be an AbortSignal, not an object'],
  [{ ...index, outputpath: 'x' }, 'options.outputpath is not an option'],
  [{ ...index, onProgress: 'log' }, 'options.onProgress must be a function, not "log"'],
])('createFromOCIImage(%j)', async (options, message) => {
  await expect(createFromOCIImage(options as never)).rejects.toEqual(usage(`createFromOCIImage: ${message}`));
});

test('createFromOCIImage() with a checkpoint that is no number', async () => {
  await expect(createFromOCIImage({ ...index, checkpointMiB: '2' as never })).rejects.toEqual(
    usage('a checkpoint every "2" MiB: a whole number from 1 to 64 expected'),
  );
});

const place = { archivePath: '/nonexistent.clip', mountPoint: '/nonexistent' };

test.each<[unknown, string]>([
  [undefined, 'options must be an object, but is missing'],
  [{}, 'options.archivePath must be a string, but is missing'],
  [{ archivePath: 'a' }, 'options.mountPoint must be a string, but is missing'],
  [{ ...place, cachePath: true }, 'options.cachePath must be a string, not true'],
  [{ ...place, cacheSize: '20G' }, 'options.cacheSize must be a number from 0 to 9007199254740992, not "20G"'],
  [{ ...place, readTimeout: 0 }, 'options.readTimeout must be a number from 0.001 to 86400, not 0'],
  [
    { ...place, credentials: 'me:secret'.split(':') },
    'options.credentials must be null, { username, password }, or an object with getCredentials(), not a list',
  ],
  [{ ...place, readAhead: false }, 'options.readAhead is not an option'],
  [{ ...place, storage: {} }, 'options.storage is not an option'],
  [{ ...place, suid: 1 }, 'options.suid must be true or false, not 1'],
])('mountArchive(%j)', async (options, message) => {
  const runtime = process.env.XDG_RUNTIME_DIR;
  process.env.XDG_RUNTIME_DIR = directory;
  try {
    await expect(mountArchive(options as never).start()).rejects.toEqual(usage(`mountArchive: ${message}`));
    expect(readdirSync(directory)).toEqual([]);
  } finally {
    if (runtime === undefined) delete process.env.XDG_RUNTIME_DIR;
    else process.env.XDG_RUNTIME_DIR = runtime;
  }
});
