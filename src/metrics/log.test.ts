import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { createLogger } from './log.js';

test('a file logger appends JSON lines and makes its directory', () => {
  const dir = mkdtempSync(join(tmpdir(), 'clip-log-'));
  try {
    const file = join(dir, 'a/clipd.log');
    createLogger({ file }).warn({ layer: 'sha256:1' }, 'span lies');
    createLogger({ file }).info('again');
    const lines = readFileSync(file, 'utf8').trim().split('\n');
    expect(lines).toHaveLength(2);
    expect(JSON.parse(lines[0]!)).toMatchObject({ layer: 'sha256:1', msg: 'span lies' });
  } finally {
    rmSync(dir, { recursive: true });
  }
});
