import { existsSync, readdirSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Clipctl, PROGRAM } from '../support/clipctl.js';
import { RUNTIMES, Stage } from '../support/container-images.js';
import type { TestImage } from '../support/images.js';
import { eventually } from '../support/mounted.js';
import { Pty } from '../support/pty.js';

// `clipctl run -it` at a real terminal: what a user sees and types.

/**
 * Runs line after line as they are typed, and says when each has ended. An interactive shell would also redraw its prompt and ask the
 * terminal for its cursor.
 */
const LINES = 'trap : INT; echo "[ready]"; while read -r line; do eval "$line"; echo "[done $?]"; done; exit 5';

let clip: Clipctl;
let image: TestImage;
let pty: Pty;

beforeAll(async () => {
  clip = await Clipctl.create();
  image = new Stage().base().image({ Env: ['PATH=/bin'], Cmd: ['sh', '-c', LINES] });
  await clip.ok('inspect', '--image', image.reference);
});
beforeEach(() => {
  pty = new Pty();
  pty.resize(33, 101);
});
afterEach(async () => {
  pty.close();
  const clipd = /^(clipd\..*|mounts\.json(\.new)?|mnt|reads)$/;
  const left = readdirSync(clip.path('root')).filter((name) => !clipd.test(name));
  for (const id of left) await clip.run(['umount', '--cid', id, '--force']);
  expect(left).toEqual([]);
});
afterAll(async () => {
  image.remove();
  await clip.close();
});

function run(runtime: string, ...command: string[]): Promise<number | null> {
  const args = ['run', '--rm', '-it', '--runtime', runtime, image.reference, ...command];
  return pty.run([process.execPath, PROGRAM, ...args], clip.env);
}

const seen = (text: string | RegExp): Promise<void> =>
  eventually(() => (typeof text === 'string' ? pty.output.includes(text) : text.test(pty.output)));

/** Types a line. @returns what there is to see, when it has been run */
async function enter(...typed: string[]): Promise<string> {
  pty.output = '';
  for (const text of typed) pty.type(`${text}\r`);
  await seen(/\[done \d+\]\r\n$/);
  return pty.output;
}

describe.each(RUNTIMES)('with %s', (runtime) => {
  test('has the terminal’s size, follows it, takes Ctrl-C and Ctrl-D, and leaves the terminal as it was', async () => {
    const before = pty.modes();
    const ended = run(runtime);
    await seen('[ready]\r\n');
    expect(pty.modes()).not.toBe(before); // raw: the container's terminal does the echo
    // crun sets it when the program runs already.
    await eventually(async () => (await enter('stty size; tty')).includes('\r\n33 101\r\n/dev/pts/0\r\n[done 0]\r\n'));
    // runc hears of a new one by a signal. crun 1.8 passes the signal on, but not the size (docs/cli.md, "clipctl run").
    pty.resize(40, 120);
    if (runtime === 'runc') await eventually(async () => (await enter('stty size')).includes('40 120'));
    pty.output = '';
    pty.type("sh -c 'echo begun; exec sleep 1000'\r");
    await seen('\r\nbegun\r\n');
    pty.type('\x03');
    await seen('^C[done 130]\r\n');
    // The container's terminal edits lines: DEL takes the "a" away.
    expect(await enter('read x; echo got $x', 'a\x7fb')).toContain('got b\r\n');
    pty.type('\x04');
    expect(await ended).toBe(5);
    expect(pty.modes()).toBe(before);
  });

  test('gives the exit code of a program that Ctrl-C ends', async () => {
    const before = pty.modes();
    const ended = run(runtime, 'sh', '-c', 'trap "exit 9" INT; echo waits; while :; do sleep 0.05; done');
    await seen('waits\r\n');
    pty.type('\x03');
    expect(await ended).toBe(9);
    expect(pty.modes()).toBe(before);
  });
});

test('a program that cannot be run leaves the terminal as it was', async () => {
  const before = pty.modes();
  expect(await run('runc', 'nope')).toBe(127);
  expect(pty.output).toContain('"nope" not found');
  expect(pty.modes()).toBe(before);
  expect(existsSync(pty.path)).toBe(true);
});
