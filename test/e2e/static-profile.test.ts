import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { ArchiveFile } from '../../src/check/index.js';
import { ErofsReader, resolvePath } from '../../src/erofs/index.js';
import { createFromOCIImage } from '../../src/index/index.js';
import { layerLike } from '../support/gzip.js';
import { type Compression, writeImage } from '../support/images.js';
import { file, symlink, tar } from '../support/tar.js';

const directory = mkdtempSync(join(tmpdir(), 'clip-static-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** This machine's program with its loader and libraries, as ldd(1) has them: the oracle. */
const PROGRAM = realpathSync('/bin/ls');
const LIBRARIES = [...execFileSync('ldd', [PROGRAM], { encoding: 'utf8' }).matchAll(/(\/\S+) \(/g)].map((m) => m[1]!);
const PADDING = layerLike(3_000_000);

function rootfs(): Uint8Array {
  const parts: Uint8Array[] = [
    symlink('usr/local/bin/tool', '/opt/tool.sh'),
    file('opt/tool.sh', '#!/usr/bin/env -S list --all\n'),
  ];
  parts.push(symlink('usr/bin/list', 'alias'), symlink('usr/bin/alias', PROGRAM), file('usr/bin/env', '#!/nowhere\n'));
  for (const [i, path] of [PROGRAM, ...LIBRARIES].entries()) {
    const real = realpathSync(path);
    // Padding of some spans around each, which is never read.
    parts.push(file(`pad/${i}`, PADDING), file(real.slice(1), readFileSync(real), { mode: 0o755 }));
    if (real !== path && dirname(real) !== dirname(path)) parts.push(symlink(path.slice(1), real));
    else if (real !== path) parts.push(symlink(path.slice(1), real.slice(real.lastIndexOf('/') + 1)));
  }
  return tar(...parts, file('pad/end', PADDING));
}

async function profileOf(
  config: object,
  compression: Compression = 'gzip',
  above: readonly Uint8Array[] = [],
): Promise<{ paths: Set<string>; source: string; spans: Set<string> } | null> {
  const image = writeImage([tar(file('base', 'base')), rootfs(), ...above], {
    compression,
    config: config as Record<string, unknown>,
  });
  const out = join(directory, 'out.clip');
  const { warnings } = await createFromOCIImage({ imageRef: image.reference, outputPath: out, checkpointMiB: 1 });
  expect(warnings).toEqual([]);
  const opened = ArchiveFile.open(out);
  const { archive } = opened;
  const { profile } = archive;
  opened.close();
  image.remove();
  if (profile === null) return null;
  const reader = new ErofsReader(archive.tree);
  const touched = new Set([...profile.span].map((span, i) => `${profile.layer[i]}/${span}`));
  const { layerOffset } = archive.layers[1]!.table;
  const paths = new Set<string>();
  const all = [PROGRAM, ...LIBRARIES, '/opt/tool.sh', ...[PROGRAM, ...LIBRARIES].map((_, i) => `/pad/${i}`)];
  for (const path of all) {
    const nid = resolvePath(reader, Buffer.from(path), true);
    reader.mapRange(nid, 0, 1e9, (layer, start, length) => {
      const middle = layerOffset.findLastIndex((offset) => offset <= start + length / 2);
      if (touched.has(`${layer}/${middle}`)) paths.add(path);
    });
  }
  return { paths, source: profile.source, spans: touched };
}

test.each<Compression>(['gzip', 'none'])(
  '%s: entrypoint through PATH, links, #! and env to the libraries ldd lists',
  async (compression) => {
    const found = await profileOf(
      { Entrypoint: ['tool'], Env: ['PATH=/nowhere:/usr/local/bin:/usr/bin'] },
      compression,
    );
    expect(found).toMatchObject({ source: 'static', paths: new Set([PROGRAM, ...LIBRARIES, '/opt/tool.sh']) });
  },
);

test('a shell’s command line, and a command relative to the working directory', async () => {
  const found = await profileOf({ Cmd: ['bash', '-c', 'exec list --all'] });
  expect(found!.paths).toEqual(new Set([PROGRAM, ...LIBRARIES]));
  const relative = await profileOf({ Cmd: ['./alias'], WorkingDir: '/usr/bin' });
  expect(relative!.paths).toEqual(new Set([PROGRAM, ...LIBRARIES]));
});

test('without a command: the shell, its libraries and the loader’s cache of names', async () => {
  const above = [tar(symlink('bin/sh', PROGRAM), file('etc/ld.so.cache', 'names'))];
  const found = await profileOf({}, 'gzip', above);
  expect(found).toMatchObject({ source: 'static', paths: new Set([PROGRAM, ...LIBRARIES]) });
  expect(found!.spans).toContain('2/0');
});

test('no command and no shell, or a command that is not there: no profile', async () => {
  expect(await profileOf({})).toBeNull();
  expect(await profileOf({ Cmd: ['missing'] })).toBeNull();
});
