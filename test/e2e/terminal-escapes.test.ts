import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openArchive } from '../../src/archive/index.js';
import { buildArchive } from '../../src/archive/writer.js';
import { bytesInput } from '../support/archives.js';
import { Clipctl, type Ran } from '../support/clipctl.js';
import { type TestImage, writeImage } from '../support/images.js';
import { file, symlink, tar } from '../support/tar.js';

/** Clears the screen, sets the window's title, sets a colour by a C1 control, turns the writing direction. */
const EVIL = '\u001b[2J\u001b]0;owned\u0007\u009b31m\u202egnp.exe';
// biome-ignore lint/suspicious/noControlCharactersInRegex: the test is about them
const UNSAFE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/;

/** Whatever an archive, a file name or an argument says: the terminal shows it and obeys nothing of it. */
describe('terminal escapes', () => {
  let clipctl: Clipctl;
  let layout: TestImage;
  let clip: string;
  /** Its registry is none. */
  let refused: string;

  beforeAll(async () => {
    clipctl = await Clipctl.create();
    layout = writeImage([tar(file(`bin/${EVIL}`, 'x'), symlink('link', EVIL))], {
      config: { Env: [`PATH=${EVIL}`], Cmd: [EVIL], Labels: { [EVIL]: EVIL } },
    });
    const honest = clipctl.path('honest.clip');
    await clipctl.ok('index', '--image', layout.reference, '--out', honest);
    // What no honest index would write: an image whose name controls the terminal.
    const { image, tree, layers, checkpointState } = openArchive(bytesInput(readFileSync(honest)));
    const write = (name: string, change: Partial<typeof image>): string => {
      const { parts } = buildArchive({
        image: { ...image, reference: `${image.reference}${EVIL}`, ...change },
        tree,
        layers: layers.map(({ table }, layer) => ({
          spans: table,
          states: Array.from({ length: table.count }, (_, span) => checkpointState(layer, span) ?? new Uint8Array(0)),
        })),
      });
      writeFileSync(clipctl.path(name), Buffer.concat(parts));
      return clipctl.path(name);
    };
    clip = write('evil.clip', {});
    refused = write('refused.clip', { registry: EVIL, repository: EVIL });
  });
  afterAll(async () => {
    layout?.remove();
    await clipctl?.close();
  });

  const expectSafe = (ran: Ran): void => {
    expect(ran.stdout + ran.stderr).not.toBe('');
    expect(ran.stdout).not.toMatch(UNSAFE);
    expect(ran.stderr).not.toMatch(UNSAFE);
  };

  it('are escaped by inspect, and in its JSON, which reads back as it was', async () => {
    expectSafe(await clipctl.run(['inspect', '--clip', clip]));
    const json = await clipctl.run(['inspect', '--clip', clip, '--json']);
    expectSafe(json);
    const { reference, config } = JSON.parse(json.stdout) as { reference: string; config: { Cmd: string[] } };
    expect(reference.endsWith(EVIL)).toBe(true);
    expect(config.Cmd).toEqual([EVIL]);
  });

  it('are escaped where an archive is refused for its registry', async () => {
    for (const args of [
      ['inspect', '--clip', refused],
      ['inspect', '--clip', refused, '--json'],
      ['ls', '--clip', refused],
    ]) {
      const ran = await clipctl.run(args);
      expect(ran.code).not.toBe(0);
      expectSafe(ran);
    }
  });

  it('are escaped by ls --json', async () => {
    expectSafe(await clipctl.run(['ls', '-R', '--clip', clip, '--json']));
  });

  it('are escaped by mount --verbose, ps and stats', async () => {
    const at = await clipctl.place('at');
    expectSafe(await clipctl.run(['mount', '--clip', clip, '--at', at, '--verbose']));
    expectSafe(await clipctl.run(['ps']));
    expectSafe(await clipctl.run(['ps', '--json']));
    expectSafe(await clipctl.run(['stats', '--json']));
    await clipctl.ok('umount', at);
  });

  it.each([
    [EVIL],
    ['mount', '--clip', EVIL, '--at', EVIL],
    ['inspect', `--${EVIL}`],
    ['inspect', '--clip', EVIL, '--verbose'],
    ['ls', '--clip', EVIL, EVIL],
    ['index', '--image', EVIL, '--out', EVIL],
    ['index', '--image', `127.0.0.1:1/${EVIL}`, '--out', '/tmp/never', '--checkpoint', EVIL],
    ['umount', EVIL],
    ['prefetch', EVIL],
  ])('are escaped where arguments are echoed: %#', async (...args) => {
    const ran = await clipctl.run(args);
    expect(ran.code).not.toBe(0);
    expectSafe(ran);
  });
});
