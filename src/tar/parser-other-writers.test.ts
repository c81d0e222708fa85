import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseTar as parse } from '../../test/support/parse-tar.js';

describe('what other programs write', () => {
  let directory: string;
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'clip-tar-'));
    mkdirSync(join(directory, 'in/sub'), { recursive: true });
    writeFileSync(join(directory, 'in/sub', 'n'.repeat(150)), 'long');
    writeFileSync(join(directory, 'in/file'), 'x'.repeat(3000));
    symlinkSync('t'.repeat(180), join(directory, 'in/link'));
    spawnSync('truncate', ['-s', '3M', join(directory, 'in/sparse')]);
    spawnSync('setfattr', ['-n', 'user.k', '-v', 'v', join(directory, 'in/file')]);
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  test.each([
    ['tar', ['--format=gnu', '-S']],
    ['tar', ['--format=pax', '-S', '--sparse-version=0.0']],
    ['tar', ['--format=pax', '-S', '--sparse-version=0.1']],
    ['tar', ['--format=pax', '-S', '--sparse-version=1.0', '--xattrs']],
    ['tar', ['--format=ustar', '--exclude=n*', '--exclude=link']],
    ['tar', ['--format=oldgnu']],
    ['bsdtar', ['--format=pax', '--xattrs']],
    ['bsdtar', ['--format=gnutar']],
  ])('%s %j', (program, options) => {
    const made = spawnSync(program, ['-c', '-f', '-', ...options, '-C', directory, 'in'], { maxBuffer: 1 << 28 });
    expect(made.status, made.stderr.toString()).toBe(0);
    const parsed = new Map(parse(new Uint8Array(made.stdout)).map((e) => [e.path.replace(/\/$/, ''), e]));
    expect(parsed.get('in/file')).toMatchObject({ size: 3000, data: 'x'.repeat(3000) });
    expect(parsed.get('in/sparse')).toMatchObject({ size: 3 << 20 });
    if (!options.includes('--exclude=n*')) {
      expect(parsed.get(`in/sub/${'n'.repeat(150)}`)).toMatchObject({ data: 'long' });
      expect(parsed.get('in/link')).toMatchObject({ link: 't'.repeat(180) });
    }
    if (options.includes('--xattrs')) expect(parsed.get('in/file')!.xattrs).toEqual({ 'user.k': 'v' });
  });
});
