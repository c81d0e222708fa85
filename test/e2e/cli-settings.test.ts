import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Clipctl, PROGRAM, type Ran, runProgram } from '../support/clipctl.js';
import { type TestImage, writeImage } from '../support/images.js';
import { dir, file, tar } from '../support/tar.js';

interface Setting {
  readonly key: string;
  readonly value: unknown;
  readonly source: string;
  readonly from: string | null;
  readonly commands: readonly string[] | null;
}

interface ErrorDocument {
  readonly error: { readonly code: string; readonly message: string; readonly hint: string | null };
}

let clip: Clipctl;
let image: TestImage;
let archive: string;

beforeAll(async () => {
  clip = await Clipctl.create();
  image = writeImage([tar(dir('etc'), file('etc/hello', 'hello\n'))]);
  archive = clip.path('py.clip');
  await clip.ok('index', image.reference, '-o', archive);
});
afterAll(async () => {
  image?.remove();
  await clip?.close();
});

describe('settings of files and environment', () => {
  const home = (): string => clip.path('config');
  const config = (): string => path.join(home(), 'clip/config.toml');

  beforeEach(() => {
    mkdirSync(path.dirname(config()), { recursive: true });
    write('');
  });
  function write(text: string): void {
    writeFileSync(config(), text, { mode: 0o644 });
    chmodSync(config(), 0o644);
  }
  /** Without the variables that the class sets for all tests. */
  const run = (args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Ran> =>
    clip.run(args, { env: { XDG_CONFIG_HOME: home(), ...env } });
  const settings = async (args: readonly string[] = [], env: NodeJS.ProcessEnv = {}): Promise<readonly Setting[]> => {
    const ran = await run(['config', ...args, '--json'], env);
    expect([ran.code, ran.stderr]).toEqual([0, '']);
    return (JSON.parse(ran.stdout) as { settings: Setting[] }).settings;
  };
  const setting = async (key: string, ...more: Parameters<typeof settings>): Promise<Setting | undefined> =>
    (await settings(...more)).find((one) => one.key === key);

  it('the command line wins over the environment, that over the file, and that over the default', async () => {
    expect(await setting('log-level')).toMatchObject({ value: 'info', source: 'default', from: null });
    write('log-level = "warn"');
    expect(await setting('log-level')).toMatchObject({ value: 'warn', source: 'config', from: config() });
    const env = { CLIP_LOG_LEVEL: 'error' };
    expect(await setting('log-level', [], env)).toMatchObject({
      value: 'error',
      source: 'env',
      from: 'CLIP_LOG_LEVEL',
    });
    expect(await setting('log-level', ['--log-level', 'debug'], env)).toMatchObject({ value: 'debug', source: 'flag' });
    // An empty variable is none.
    expect(await setting('log-level', [], { CLIP_LOG_LEVEL: '' })).toMatchObject({ source: 'config' });
  });

  it('the table of a command wins over the keys of the file, and is for that command alone', async () => {
    write('to = "1G"\n[cache.prune]\nto = "2G"\n[archives]\nto = "3G"\n');
    const rows = (await settings()).filter(({ key }) => key === 'to');
    expect(rows).toEqual([
      expect.objectContaining({ value: 3 * 2 ** 30, commands: ['archives prune'] }),
      expect.objectContaining({ value: 2 * 2 ** 30, commands: ['cache prune'] }),
    ]);
  });

  it('a flag of two names is set by either of them', async () => {
    const network = (env: NodeJS.ProcessEnv = {}): Promise<Setting | undefined> => setting('network', ['run'], env);
    write('[run]\nnet = "none"\n');
    expect(await network()).toMatchObject({ value: 'none', source: 'config', from: config() });
    expect(await network({ CLIP_NET: 'private' })).toMatchObject({ value: 'private', from: 'CLIP_NET' });
    write('network = "host"\n[run]\nnetwork = "none"\n');
    expect(await network()).toMatchObject({ value: 'none' });
    expect(await network({ CLIP_NETWORK: 'private' })).toMatchObject({ value: 'private', from: 'CLIP_NETWORK' });
    write('network = "host"\n[run]\nnet = "none"\n'); // the table is more particular, by whichever name
    expect(await network()).toMatchObject({ value: 'none' });
  });

  it('the machine’s file is read after the user’s', async () => {
    write('log-level = "warn"');
    const etc = clip.path('etc');
    mkdirSync(etc, { recursive: true });
    writeFileSync(path.join(etc, 'config.toml'), 'log-level = "error"\nprogress = "plain"\n', { mode: 0o644 });
    mkdirSync('/etc/clip', { recursive: true });
    // In a mount namespace of its own.
    const script = 'mount --bind "$1" /etc/clip && shift && exec "$@"';
    const { CLIP_PROGRESS: _, ...env } = clip.env;
    const ran = await runProgram(
      'unshare',
      ['--mount', 'sh', '-c', script, 'sh', etc, process.execPath, PROGRAM, 'config', '--json'],
      { env: { ...env, XDG_CONFIG_HOME: home() } },
    );
    const rows = (JSON.parse(ran.stdout) as { settings: Setting[] }).settings;
    expect(rows.find(({ key }) => key === 'log-level')).toMatchObject({ value: 'warn', from: config() });
    expect(rows.find(({ key }) => key === 'progress')).toMatchObject({ value: 'plain', from: '/etc/clip/config.toml' });
  });

  it('settings take effect: flags without a value, lists, and flags that exclude each other', async () => {
    write('json = true');
    expect(JSON.parse((await run(['version'])).stdout)).toMatchObject({ node: process.versions.node });
    expect((await run(['version'], { CLIP_JSON: '0' })).stdout).toMatch(/^clip /);
    // `clip` is set, and an image is named: the image counts.
    write('[ls]\nclip = "/nowhere.clip"\nlong = true\n');
    expect((await run(['ls', '--image', image.reference, '/etc'])).stdout).toMatch(/^-rw.* hello\n$/);
    expect((await run(['ls', image.reference, '/etc'])).stdout).toMatch(/^-rw.* hello\n$/);
    expect((await run(['ls', archive, '/etc'])).stdout).toMatch(/^-rw.* hello\n$/);
    write(`[ls]\nclip = "${archive}"\n`);
    expect((await run(['ls'])).stdout).toBe('etc\n');
    write('[run]\nenv = ["A=1", "PASSWORD=secret"]\n');
    expect(await setting('env', ['run'])).toMatchObject({ value: ['A=***', 'PASSWORD=***'] });
  });

  it('a mandatory option may come from there', async () => {
    const out = clip.path('configured.clip');
    write(`[index]\nout = "${out}"\n`);
    expect((await run(['index', image.reference])).stdout).toContain(out);
  });

  it('a running clipd contradicts a flag and a variable, and no file', async () => {
    const place = await clip.place('mnt');
    await clip.ok('mount', archive, place);
    write('cache-size = "77M"');
    const second = await clip.place('mnt2');
    expect((await run(['mount', archive, second])).code).toBe(0);
    await clip.ok('umount', second);
    const ran = await run(['mount', archive, second], { CLIP_CACHE_SIZE: '78M' });
    expect([ran.code, ran.stderr]).toEqual([14, expect.stringMatching(/cache/i)]);
    await clip.ok('umount', place);
  });

  it.each([
    ['cache-sise = "1G"', 'unknown key "cache-sise"', 'names of flags'],
    ['cache_size = "1G"', 'unknown key "cache_size"', 'the key is cache-size'],
    ['[mont]\nfill = true', 'unknown key "mont"', 'names of commands'],
    ['[mount]\nto = "1G"', 'unknown key "mount.to"', 'names of flags'],
    ['help = true', 'unknown key "help"', 'names of flags'],
    ['__proto__ = true', 'unknown key "__proto__"', 'names of flags'],
    ['log-level = "loud"', 'log-level: Allowed choices are debug, info, warn, error., found "loud"', 'clipctl config'],
    ['json = "yes"', 'json: true or false expected, found "yes"', 'edit '],
    ['log-level = true', 'log-level: a string or a number expected, found true', 'edit '],
    ['log-level = ["warn", "info"]', 'log-level: one value expected, found 2', 'list'],
    ['root = ', 'line 1, column', 'TOML'],
  ])('%s: an error that names the file and the key', async (text, message, hint) => {
    write(text);
    const ran = await run(['version']);
    const [first, second] = ran.stderr.split('\n');
    expect([ran.code, first]).toEqual([2, expect.stringContaining(`${config()}: ${message}`)]);
    expect(second).toContain(hint);
  });

  it('a variable with a wrong value is named', async () => {
    const ran = await run(['version'], { CLIP_JSON: 'perhaps' });
    expect([ran.code, ran.stderr]).toEqual([2, expect.stringContaining('CLIP_JSON: 1 or 0 expected, found "perhaps"')]);
    const level = await run(['version'], { CLIP_LOG_LEVEL: 'loud' });
    expect([level.code, level.stderr]).toEqual([2, expect.stringContaining('CLIP_LOG_LEVEL: Allowed choices')]);
  });

  it('a file that another user may have written is refused, also by way of a link; a fifo and a huge one, too', async () => {
    const refused = async (words: string): Promise<void> => {
      const ran = await run(['version']);
      expect([ran.code, ran.stderr]).toEqual([2, expect.stringContaining(words)]);
    };
    chmodSync(config(), 0o664);
    await refused('has mode 0664: other users may write it\n  chmod go-w');
    chmodSync(config(), 0o644);
    chownSync(config(), 1234, 0);
    await refused('belongs to user 1234, neither to root nor to this user (0)');
    const real = clip.path('real.toml');
    execFileSync('mv', [config(), real]);
    symlinkSync(real, config());
    await refused('belongs to user 1234');
    execFileSync('rm', [config()]);
    execFileSync('mkfifo', [config()]);
    await refused('is not a regular file');
    execFileSync('rm', [config()]);
    write(' '.repeat(65_537));
    await refused('has 65537 bytes');
  });

  it('clipctl --version and help need no settings', async () => {
    write('nonsense');
    expect(await run(['--version'])).toMatchObject({ code: 0, stderr: '' });
    expect((await run(['help'])).code).toBe(0);
  });

  it('clipctl config: as a table; of one command; of none that there is; passwords hidden', async () => {
    write('content-cache = "redis://:secret@cache:6379"\ncreds = "me:secret"\n');
    const all = await run(['config']);
    expect(all.stdout).toContain(`files: ${config()}, /etc/clip/config.toml`);
    expect(all.stdout).toMatch(/^content-cache +redis:\/\/\*\*\*@cache:6379 +.*config\.toml +for .*mount/m);
    expect(all.stdout + (await run(['config', 'mount', '--json'])).stdout).not.toContain('secret');
    const prune = await run(['config', 'cache', 'prune']);
    expect(prune.stdout).toMatch(/^to +– +default; CLIP_TO sets it$/m);
    const none = await run(['config', 'frobnicate']);
    expect([none.code, none.stderr]).toEqual([2, expect.stringContaining('there is no command frobnicate')]);
  });
});

describe('arguments in the place of flags', () => {
  const WHAT: readonly (readonly [how: string, place: '--at' | 'argument', words: () => readonly string[]])[] = [
    ['FILE', 'argument', () => [archive]],
    ['--clip FILE', 'argument', () => ['--clip', archive]],
    ['IMAGE', '--at', () => [image.reference]],
    ['--image IMAGE', 'argument', () => ['--image', image.reference]],
  ];
  it.each(WHAT)('%s, with the mount point as %s', async (_how, at, words) => {
    const what = words();
    const place = await clip.place('positional');
    const where = at === '--at' ? ['--at', place] : [place];
    expect((await clip.ok('mount', ...what, ...where)).stdout).toBe(`${place}\n`);
    await clip.ok('umount', place);
    expect((await clip.ok('ls', ...what)).stdout).toBe('etc\n');
    expect((await clip.ok('ls', ...what, '/etc')).stdout).toBe('hello\n');
    expect((await clip.ok('cat', ...what, '/etc/hello')).stdout).toBe('hello\n');
    expect((await clip.ok('inspect', ...what)).stdout).toContain(image.reference);
    expect((await clip.ok('verify', ...what)).stdout).toContain('all as indexed');
    const out = clip.path('unpacked');
    await clip.ok('unpack', ...what, out);
    expect(readdirSync(out)).toEqual(['etc']);
    execFileSync('rm', ['-r', out]);
  });

  it('an archive is one by its path, its name or its first bytes', async () => {
    const cwd = clip.directory;
    execFileSync('cp', [archive, clip.path('named')]);
    for (const name of ['py.clip', './named', 'named']) {
      expect((await clip.run(['ls', name], { cwd })).stdout).toBe('etc\n');
    }
    const ran = await clip.run(['ls', 'absent.clip'], { cwd });
    expect([ran.code, ran.stderr]).toEqual([3, expect.stringContaining('archive absent.clip does not exist')]);
  });

  it('index and pull name their file by the image, and replace none that exists', async () => {
    const cwd = clip.path('fresh');
    mkdirSync(cwd);
    await clip.run(['index', image.reference], { cwd });
    const [made] = readdirSync(cwd);
    expect(made).toMatch(/^clip-layout-.*\.clip$/);
    const again = await clip.run(['index', image.reference], { cwd });
    expect([again.code, again.stderr]).toEqual([14, expect.stringContaining(`--out ${made} replaces it`)]);
    expect((await clip.run(['index', image.reference, '-o', made!], { cwd })).code).toBe(0);
  });

  it('too few and too many are refused with the usage', async () => {
    const few = await clip.run(['unpack', archive]);
    expect([few.code, few.stderr]).toEqual([
      2,
      expect.stringMatching(/missing argument: dir\n {2}usage: clipctl unpack/),
    ]);
    const many = await clip.run(['mount', '--clip', archive, '--at', '/mnt', 'more']);
    expect([many.code, many.stderr]).toEqual([2, expect.stringContaining('unexpected: more')]);
    const extra = await clip.run(['extract', 'a', 'b', '--out', 'c']);
    expect([extra.code, extra.stderr]).toEqual([2, expect.stringContaining('unexpected argument: b')]);
  });
});

describe('failures for programs', () => {
  it.each([
    [['ls', '/nowhere.clip'], 3, 'NOT_FOUND'],
    [['ls', '/etc/passwd'], 4, 'BAD_FORMAT'],
    [['index', 'UPPER::case', '-o', 'x'], 6, 'BAD_REFERENCE'],
    [['frobnicate'], 2, 'USAGE'],
    [['ls', '--frobnicate'], 2, 'USAGE'],
    [['cache', 'prune', '--to', 'much'], 2, 'USAGE'],
    [['index'], 2, 'USAGE'],
    [['health'], 1, 'NOT_FOUND'],
    [['run', '--clip', '/nowhere.clip'], 125, 'NOT_FOUND'],
    [['run', '--frobnicate'], 125, 'USAGE'],
  ])('--json %j', async (args, exit, code) => {
    const own = { CLIP_ROOT: clip.path('none') };
    const [command, ...rest] = args;
    const ran = await clip.run([command!, '--json', ...rest], { env: own });
    const { error } = JSON.parse(ran.stdout) as ErrorDocument;
    expect([ran.code, error.code, error.message !== '', error.hint]).toEqual([exit, code, true, expect.anything()]);
    expect(ran.stderr).toContain(error.message);
    const plain = await clip.run(args, { env: own });
    expect([plain.code, plain.stdout]).toEqual([exit, '']);
  });
});
