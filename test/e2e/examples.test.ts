import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, symlinkSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Clipctl, runProgram } from '../support/clipctl.js';
import { writeImage } from '../support/images.js';
import { LOGIN, startRegistry, type TestRegistry } from '../support/registry.js';
import { file, symlink, tar } from '../support/tar.js';
import { makeRichImage, type RichImage } from './rich-image.js';

const root = fileURLToPath(new URL('../../..', import.meta.url));

/** Each program of examples/, run as its head says, against a real registry. */
describe('examples', () => {
  let image: RichImage;
  let open: TestRegistry;
  let closed: TestRegistry;
  let clipctl: Clipctl;
  const ran = new Set<string>();

  beforeAll(async () => {
    image = makeRichImage();
    [open, closed, clipctl] = await Promise.all([startRegistry(), startRegistry({ auth: 'basic' }), Clipctl.create()]);
    await Promise.all([open.push(image.reference, 'py:latest'), closed.push(image.reference, 'py:latest')]);
    // Outside the checkout, so that 'clipfs' is the package as its users get it.
    await mkdir(clipctl.path('node_modules'));
    symlinkSync(root, clipctl.path('node_modules/clipfs'));
  });
  afterAll(async () => {
    await clipctl?.close();
    await Promise.all([open?.stop(), closed?.stop()]);
    image?.remove();
  });

  async function example(name: string, ...args: string[]): Promise<string> {
    ran.add(name);
    const program = clipctl.path(name);
    await writeFile(program, readFileSync(path.join(root, 'examples', name)));
    const { code, stdout, stderr } = await runProgram(process.execPath, [program, ...args], {
      cwd: clipctl.directory,
      env: { ...clipctl.env, DOCKER_CONFIG: clipctl.directory },
    });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(clipctl.mounts()).toEqual([]);
    return stdout;
  }

  it('index-and-mount reads a file of the image', async () => {
    const archive = clipctl.path('image.clip');
    const text = await example('index-and-mount.mjs', `${open.host}/py`, archive, await clipctl.place('mnt'));
    expect(text).toMatch(/image\.clip: \d+ bytes for \d+ inodes in 3 layers/);
    expect(text).toContain('ID=clip-test');
    expect(text).toMatch(/[1-9]\d* spans fetched in [1-9]\d* requests/);
  });

  it('content-cache lets the second mount do without the registry', async () => {
    const archive = clipctl.path('cached.clip');
    await clipctl.ok('index', '--image', `${open.host}/py`, '--out', archive);
    const place = await clipctl.place('mnt');
    let text = await example('content-cache.mjs', archive, place, 'data/random.bin');
    // On a machine under load its cache may answer later than a reader waits for it, and it says so: then this run shows nothing.
    for (let i = 0; i < 20 && text.includes('came too late'); i++) {
      text = await example('content-cache.mjs', archive, place, 'data/random.bin');
    }
    const [first, second] = text.split('second mount') as [string, string];
    expect(first).toMatch(/5000000 bytes read, [1-9]\d* requests/);
    expect(first).toMatch(/ 0 spans from the content cache, [1-9]\d* stored/);
    expect(second).toMatch(/5000000 bytes read, 0 requests/);
    expect(second).toMatch(/ [1-9]\d* spans from the content cache, 0 stored/);
  });

  it('credential-provider logs in to a registry that demands it', async () => {
    const login = clipctl.path('login.json');
    await writeFile(login, JSON.stringify(LOGIN));
    const text = await example('credential-provider.mjs', `${closed.host}/py`, clipctl.path('private.clip'), login);
    expect(text).toContain(`${closed.host} asks for a login for py`);
    expect(text).toMatch(/private\.clip: \d+ bytes, sha256:[0-9a-f]{64}/);
  });

  it('runc runs the image with its environment, and its writes stay in the overlay', async () => {
    // Not the rich image: its shell has a file capability that runc's containers may not have.
    const busybox = file('bin/busybox', readFileSync('/usr/bin/busybox'), { mode: 0o755 });
    const small = writeImage([tar(busybox, symlink('bin/sh', 'busybox'), symlink('bin/cat', 'busybox'))], {
      config: { Env: ['PATH=/bin', 'GREETING=hello'], Entrypoint: ['/bin/sh', '-c'], Cmd: ['echo $GREETING'] },
    });
    await open.push(small.reference, 'small:latest');
    small.remove();
    const script = 'echo $GREETING $EXAMPLE; echo new > /written; cat /written';
    const text = await example('runc.mjs', `${open.host}/small`, script);
    expect(text).toBe('hello\nnew\nexit code 0\nhello 1\nnew\n');
    expect(execFileSync('runc', ['list', '--quiet'], { encoding: 'utf8' })).not.toContain('clip-example');
    // Without a command: the image's own.
    expect(await example('runc.mjs', `${open.host}/small`)).toBe('hello\nexit code 0\nhello\n');
  });

  it('are all run here', () => {
    const programs = readdirSync(path.join(root, 'examples')).filter((name) => name !== 'README.md');
    expect(programs.sort()).toEqual([...ran].sort());
  });
});
