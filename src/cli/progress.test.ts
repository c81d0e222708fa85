import { PassThrough } from 'node:stream';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { createProgress } from './progress.js';

/** A stream that is, or is not, a terminal, and what was written to it. */
function stream(isTTY: boolean): { stream: NodeJS.WriteStream; text: () => string } {
  const pass = Object.assign(new PassThrough(), { isTTY, columns: 80, cursorTo() {}, moveCursor() {}, clearLine() {} });
  const chunks: Buffer[] = [];
  pass.on('data', (chunk: Buffer) => chunks.push(chunk));
  return { stream: pass as unknown as NodeJS.WriteStream, text: () => Buffer.concat(chunks).toString() };
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllEnvs();
});

it('without a terminal: a line every 10 s of all tasks together, and none of a short one', async () => {
  const { stream: stderr, text } = stream(false);
  const progress = await createProgress('auto', stderr);
  progress.update('a', 'layer a', 1e6, 10e6, 1e6);
  progress.update('b', 'layer b', 2e6, 5e6, 1e6);
  vi.advanceTimersByTime(9_999);
  expect(text()).toBe('');
  vi.advanceTimersByTime(1);
  expect(text()).toBe('clipctl: 3.0 MB of 15.0 MB, 2.0 MB/s, ETA 6.0 s\n');
  // One that stalls is told, too.
  progress.update('a', 'layer a', 1e6, 10e6, 0);
  progress.update('b', 'layer b', 5e6, 5e6, 1e6);
  vi.advanceTimersByTime(10_000);
  expect(text().split('\n')[1]).toBe('clipctl: 6.0 MB of 15.0 MB');
  progress.stop();
  vi.advanceTimersByTime(60_000);
  expect(text().split('\n')).toHaveLength(3);
});

it('plain: lines also on a terminal, the first at once', async () => {
  const { stream: stderr, text } = stream(true);
  const progress = await createProgress('plain', stderr);
  progress.update('a', 'layer a', 1e6, 10e6, 1e6);
  progress.update('a', 'layer a', 2e6, 10e6, 1e6);
  expect(text()).toBe('clipctl: 1.0 MB of 10.0 MB, 1.0 MB/s, ETA 9.0 s\n');
  progress.stop();
});

it('a terminal that cannot move its cursor gets lines; none gets nothing', async () => {
  vi.stubEnv('TERM', 'dumb');
  const dumb = stream(true);
  const lines = await createProgress('auto', dumb.stream);
  lines.update('a', 'layer a', 1e6, 10e6, 1e6);
  vi.advanceTimersByTime(10_000);
  expect(dumb.text()).toBe('clipctl: 1.0 MB of 10.0 MB, 1.0 MB/s, ETA 9.0 s\n');
  lines.stop();
  const silent = stream(true);
  const none = await createProgress('none', silent.stream);
  none.update('a', 'layer a', 1e6, 10e6, 1e6);
  vi.advanceTimersByTime(60_000);
  none.stop();
  expect(silent.text()).toBe('');
});

it('bars have no colours', async () => {
  vi.stubEnv('TERM', 'xterm-256color');
  const { stream: stderr, text } = stream(true);
  const progress = await createProgress('auto', stderr);
  progress.update('a', 'layer a', 1e6, 10e6, 1e6);
  vi.advanceTimersByTime(1000);
  progress.update('a', 'layer a', 2e6, 10e6, 1e6);
  vi.advanceTimersByTime(1000);
  progress.stop();
  expect(text()).toContain('layer a');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: it is what is looked for
  expect(text()).not.toMatch(/\u001b\[[0-9;]*m/);
});
