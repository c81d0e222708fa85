import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/bytes/index.js';
import { Clipctl, PROGRAM, type Ran, runProgram } from '../support/clipctl.js';
import { byHand, own, RUNTIMES, Stage } from '../support/container-images.js';
import type { TestImage } from '../support/images.js';
import { alive, eventually } from '../support/mounted.js';

// `clipctl run` with the runtimes that Debian has. The image is busybox, with a user, a set-uid program and a file capability.

let clip: Clipctl;
let image: TestImage;

/** cap_net_raw+ep: struct vfs_cap_data, revision 2 with the effective bit (linux/capability.h). */
const CAP_NET_RAW = Buffer.from('0100000200200000000000000000000000000000', 'hex');

beforeAll(async () => {
  clip = await Clipctl.create();
  const stage = new Stage().base();
  const busybox = readFileSync(stage.path('bin/busybox'));
  stage.program('/usr/bin/id', '/usr/bin/suid/id').mode('usr/bin/suid/id', 0o4755);
  stage.file('usr/bin/capable/cat', busybox, 0o755);
  stage.xattr('usr/bin/capable/cat', 'security.capability', CAP_NET_RAW);
  stage
    .file('usr/bin/no-interpreter', '#!/opt/none\n', 0o755)
    .file('usr/bin/script', '#!/bin/sh\necho script "$@"\n', 0o755);
  stage.file('usr/bin/app-only', '#!/bin/sh\n', 0o700);
  // Nothing leads to it: its first reads wait.
  stage.file('usr/share/large', randomBytes(16 * 1024 * 1024), 0o644);
  image = stage.image({
    Env: ['PATH=/bin:/usr/bin', 'GREETING=hello'],
    Entrypoint: ['/bin/sh', '-c'],
    Cmd: ['echo from the image'],
    WorkingDir: '/home/app/work',
    User: 'app',
  });
});
afterEach(async () => {
  const left = leftovers();
  // One failure is enough: what it left must not fail the tests after it.
  for (const name of left) if (!name.startsWith('/')) await clip.run(['umount', '--cid', name, '--force']);
  expect(left).toEqual([]);
});
afterAll(async () => {
  image.remove();
  await clip.close();
});

/** Of the names in clipd's root. */
const isContainer = (name: string): boolean => !/^(clipd\..*|mounts\.json(\.new)?|mnt|reads)$/.test(name);

/** What a container leaves when it is not taken down: its bundle, its writable layer, its mounts. */
function leftovers(): string[] {
  const names = (path: string): string[] => (existsSync(clip.path(path)) ? readdirSync(clip.path(path)) : []);
  return [...names('root').filter(isContainer), ...names('cache/containers'), ...clip.mounts()];
}

describe.each(RUNTIMES)('with %s', (runtime) => {
  const run = (...args: string[]): Promise<Ran> => clip.run(['run', '--rm', '--runtime', runtime, ...args]);
  const sh = (script: string, ...flags: string[]): Promise<Ran> =>
    run(...flags, '--entrypoint', 'sh', image.reference, '-c', script);

  test('runs what the image says, as its user, in its directory and environment', async () => {
    const plain = await run(image.reference);
    expect([plain.code, plain.stdout, plain.stderr]).toEqual([0, 'from the image\n', '']);
    const { stdout } = await run(image.reference, 'id; pwd; echo $GREETING $HOME');
    expect(stdout).toBe('uid=1000(app) gid=1000(app) groups=10(wheel)\n/home/app/work\nhello /home/app\n');
  });

  test('takes user, directory, environment, entrypoint and command from flags', async () => {
    const file = clip.path('env');
    writeFileSync(file, '# comment\nFROM_FILE=1\n\n  PADDED=2\n');
    const flags = ['-u', '7:10', '-w', '/tmp', '-e', 'GREETING=bye', '--env-file', file, '--hostname', 'box'];
    const { stdout } = await sh(
      'id -u; id -g; id -G; pwd; echo $GREETING $FROM_FILE $PADDED $HOME; hostname',
      ...flags,
    );
    expect(stdout).toBe('7\n10\n10\n/tmp\nbye 1 2 /\nbox\n');
  });

  test('gives exit codes as they are, and 128 and the signal for what a signal ended', async () => {
    expect((await sh('exit 42')).code).toBe(42);
    expect((await sh('sleep 100 & kill -9 $!; wait $!; exit $?')).code).toBe(137);
  });

  test('has the capabilities of Docker, a seccomp filter, and hides what Docker hides', async () => {
    const status = await sh(
      'cat /proc/self/status; cat /proc/kcore 2>/dev/null | wc -c; unshare -m true 2>&1',
      '-u',
      'root',
    );
    expect(status.stdout).toMatch(/CapEff:\s00000000a80425fb/);
    expect(status.stdout).toMatch(/CapBnd:\s00000000a80425fb/);
    expect(status.stdout).toMatch(/Seccomp:\s2/);
    expect(status.stdout).toMatch(/^0$/m);
    expect(status.stdout).toMatch(/unshare: .*not permitted/);
    const user = await sh('cat /proc/self/status');
    expect(user.stdout).toMatch(/CapEff:\s0000000000000000/);
    expect(user.stdout).toMatch(/CapBnd:\s00000000a80425fb/);
  });

  test('honours set-uid bits and file capabilities of the image', async () => {
    expect((await sh('/usr/bin/suid/id -u; /bin/id -u')).stdout).toBe('0\n1000\n');
    expect((await sh('/usr/bin/capable/cat /proc/self/status')).stdout).toMatch(/CapEff:\s0000000000002000/);
  });

  test('writes to a layer of its own, or not at all', async () => {
    const script = 'echo new > /home/app/file && cat /home/app/file && rm /etc/group && ls /etc/group';
    const wrote = await sh(script, '-u', 'root');
    expect([wrote.code, wrote.stdout]).toEqual([1, 'new\n']);
    expect((await sh('ls /home/app; cat /etc/group')).stdout).toMatch(/^work\n(?:.*\n)*wheel:x:10/);
    const readOnly = await sh('touch /tmp/x', '--read-only');
    expect([readOnly.code, readOnly.stderr]).toEqual([1, expect.stringContaining('Read-only file system')]);
  });

  test('mounts volumes and memory, and has no network with --net none', async () => {
    mkdirSync(clip.path('data'), { recursive: true });
    writeFileSync(clip.path('data/in'), 'from outside\n');
    const volumes = [
      '-u',
      'root',
      '-v',
      `${clip.path('data')}:/data:ro`,
      '-v',
      `${clip.path('data')}:/rw`,
      '--tmpfs',
      '/mem:size=1m',
    ];
    const { stdout } = await sh(
      'cat /data/in; touch /data/x 2>/dev/null || echo refused; echo back > /rw/out; df /mem | grep -c tmpfs',
      ...volumes,
    );
    expect(stdout).toBe('from outside\nrefused\n1\n');
    expect(readFileSync(clip.path('data/out'), 'utf8')).toBe('back\n');
    expect((await sh('ls /sys/class/net', '--net', 'none')).stdout).toBe('lo\n');
  });

  test('passes standard input on with -i only', async () => {
    const feed = async (...flags: string[]): Promise<Ran> => {
      const file = clip.path('input');
      writeFileSync(file, 'a line\n');
      const command = ['run', '--rm', '--runtime', runtime, ...flags, image.reference, 'cat'];
      const line = [process.execPath, PROGRAM, ...command].map((word) => `'${word}'`).join(' ');
      return runShell(`${line} < '${file}'`);
    };
    expect((await feed('-i')).stdout).toBe('a line\n');
    expect((await feed()).stdout).toBe('');
  });

  test('passes signals on and takes everything down', async () => {
    let child: ChildProcess | undefined;
    const script = 'trap "echo got TERM; exit 9" TERM; echo ready > /out/ready; while :; do sleep 0.05; done';
    mkdirSync(clip.path('out'), { recursive: true });
    const running = clip.run(
      [
        ...['run', '--rm', '--runtime', runtime, '-u', 'root', '-v', `${clip.path('out')}:/out`],
        ...[image.reference, script],
      ],
      { onStart: (started) => (child = started) },
    );
    await eventually(() => existsSync(clip.path('out/ready')));
    child!.kill('SIGTERM');
    const ran = await running;
    expect([ran.code, ran.stdout]).toEqual([9, 'got TERM\n']);
    rmSync(clip.path('out'), { recursive: true });
  });

  test('says in one line why a program cannot be run: 127 when it is missing, 126 when it cannot be executed', async () => {
    for (const [program, code, why] of [
      ['nope', 127, '"nope" not found: the image has none along its PATH'],
      ['/bin/nope', 127, '"/bin/nope" not found: the image has no such file'],
      ['no-interpreter', 127, 'the image has no /opt/none, its interpreter'],
      ['/etc/passwd', 126, 'it is not executable for its user'],
      ['/usr/bin/app-only', 126, 'it is not executable for its user'],
      ['/etc', 126, 'it is a directory'],
    ] as const) {
      const ran = await run('--entrypoint', '', image.reference, program);
      expect([program, ran.code, ran.stderr]).toEqual([program, code, expect.stringContaining(why)]);
      expect(ran.stderr.split('\n')).toHaveLength(3);
    }
    expect((await run('--entrypoint', 'script', image.reference, 'a b')).stdout).toBe('script a b\n');
  });

  test('leaves a detached container running, and takes it down when told', async () => {
    const id = (
      await clip.ok('run', '-d', '--runtime', runtime, '--name', own('back'), image.reference, 'sleep 1000')
    ).stdout.trim();
    expect(id).toBe(own('back'));
    const [listed] = await clip.json<{ id: string; holders: { command: string }[] }[]>('ps');
    expect([listed?.id, listed?.holders.map(({ command }) => command)]).toEqual([own('back'), ['sleep']]);
    const [program, ...first] = byHand(runtime);
    const inside = execFileSync(program, [...first, 'exec', own('back'), 'echo', 'inside'], { encoding: 'utf8' });
    expect(inside).toBe('inside\n');
    const busy = await clip.run(['umount', '--cid', own('back')]);
    expect([busy.code, busy.stderr]).toEqual([
      EXIT_CODES.BUSY,
      expect.stringContaining(`the container ${own('back')} is running`),
    ]);
    const again = await clip.run(['run', '--rm', '--name', own('back'), image.reference]);
    expect([again.code, again.stderr]).toEqual([
      125,
      expect.stringContaining(`the container id ${own('back')} is in use`),
    ]);
    await clip.ok('umount', '--cid', own('back'), '--force');
    expect((await clip.ok('umount', '--cid', own('back'))).stderr).toContain(`there is no container ${own('back')}`);
  });

  test('takes a detached container down by itself with --rm, and reports one that does not start', async () => {
    const detached = await clip.ok('run', '-d', '--rm', '--json', '--runtime', runtime, image.reference, 'sleep 0.2');
    expect(JSON.parse(detached.stdout)).toEqual({ id: expect.stringMatching(/^[0-9a-f]{12}$/) });
    await eventually(() => leftovers().length === 0);
    const failed = await clip.run(['run', '-d', '--runtime', runtime, '--entrypoint', 'nope', image.reference]);
    expect(failed.code).toBe(127);
  });

  test('lives on when clipctl is killed: ps shows it, umount --cid clears it away', async () => {
    const args = [PROGRAM, 'run', '--rm', '--runtime', runtime, '--name', own('orphan'), image.reference, 'sleep 1000'];
    const child = spawn(process.execPath, args, { env: clip.env, stdio: 'ignore' });
    const ended = once(child, 'exit');
    type Listed = { id: string; holders: unknown[] };
    const runs = async (): Promise<boolean> =>
      (await clip.json<Listed[]>('ps')).some(({ holders }) => holders?.length > 0);
    await eventually(runs);
    child.kill('SIGKILL');
    await ended;
    expect(await runs()).toBe(true);
    await clip.ok('umount', '--cid', own('orphan'), '--force');
  });
});

async function runShell(line: string): Promise<Ran> {
  return runProgram('sh', ['-c', line], { env: clip.env });
}

test.each(['SIGINT', 'SIGTERM'] as const)('%s at any moment of a run leaves nothing', async (signal) => {
  await clip.ok('inspect', '--image', image.reference);
  const ends = new Set<number | null>();
  // Before it has begun, while it mounts, while the runtime starts, while the container runs, while it is taken down.
  for (let delay = 50; delay < 900; delay += 50) {
    let child: ChildProcess | undefined;
    const args = ['run', '--rm', '--name', own('signalled'), image.reference, 'exec sleep 0.05'];
    const running = clip.run(args, { onStart: (one) => (child = one) });
    await new Promise((resolve) => setTimeout(resolve, delay));
    child!.kill(signal);
    const { code, signal: by, stderr } = await running;
    expect([delay, stderr]).toEqual([delay, '']);
    // The shell's own number; a signal before Node runs any of our code; or the container was quicker.
    ends.add(by === signal ? 128 + constants.signals[signal] : code);
    const groups = readdirSync('/sys/fs/cgroup').map((name) => `/sys/fs/cgroup/${name}/clip/${own('signalled')}`);
    const left = [...groups, `/run/runc/${own('signalled')}`].filter((path) => existsSync(path));
    expect([delay, leftovers(), left]).toEqual([delay, [], []]);
  }
  expect([...ends].filter((code) => code !== 0)).toEqual([128 + constants.signals[signal]]);
});

test.each([
  ['SIGINT', 130, false],
  ['SIGUSR1', 0, true],
] as const)(
  '%s while the runtime starts the program does not reach the runtime’s own process',
  async (signal, code, ran) => {
    // Between `create` and `start` the container's process is runc itself, which Go ends with exit code 2 when it gets a signal as init.
    const waits = clip.path('created');
    const script = [
      '#!/bin/sh',
      'for word; do case $last in --pid-file) pid=$word;; --bundle) bundle=$word;; esac; last=$word; done',
      'case "$*" in *" run "*) ;; *) exec runc "$@";; esac',
      `trap 'kill -${signal.slice(3)} "$(cat "$pid")"' ${signal.slice(3)}`,
      'runc create --bundle "$bundle" --pid-file "$pid" "$last"',
      `touch ${waits}; while [ -e ${waits} ]; do sleep 0.05; done`,
      'tail --pid="$(cat "$pid")" -f /dev/null & runc start "$last" 2>/dev/null; wait; wait',
      'runc delete --force "$last"',
    ];
    const runtime = clip.path('slow-runc');
    writeFileSync(runtime, `${script.join('\n')}\n`, { mode: 0o755 });
    const output = clip.path('output');
    mkdirSync(output, { recursive: true });
    let child: ChildProcess | undefined;
    const words = ['-u', '0', '--runtime', runtime, '-v', `${output}:/out`, image.reference, 'touch /out/ran'];
    const running = clip.run(['run', '--rm', ...words], { onStart: (one) => (child = one) });
    await eventually(() => existsSync(waits));
    const first = Number(
      readFileSync(clip.path('root', readdirSync(clip.path('root')).find(isContainer)!, 'pid'), 'utf8'),
    );
    child!.kill(signal);
    // One that ends: until it has; the other: long enough for it to do harm.
    if (ran) await new Promise((resolve) => setTimeout(resolve, 300));
    else await eventually(() => !alive(first));
    rmSync(waits);
    const ended = await running;
    expect([ended.stderr, ended.code, existsSync(`${output}/ran`)]).toEqual(['', code, ran]);
    rmSync(output, { recursive: true });
  },
);

test('a runtime that is killed before it has made anything leaves nothing in its own directory', async () => {
  const runtime = clip.path('dying-runc');
  const script =
    'for id; do :; done; case "$*" in *" run "*) mkdir -p "/run/runc/$id"; kill -9 $$;; *) exec runc "$@";; esac';
  writeFileSync(runtime, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  const id = own('dying');
  const ran = await clip.run(['run', '--rm', '--name', id, '--runtime', runtime, image.reference, 'true']);
  expect([ran.code, ran.stderr]).toEqual([125, expect.stringContaining('ended with 137 and started nothing')]);
  expect(existsSync(`/run/runc/${id}`)).toBe(false);
});

describe('bad input', () => {
  const cases: readonly (readonly [name: string, args: readonly string[], why: string])[] = [
    ['an id that is none', ['--name', 'a b'], '"a b" cannot be a container\'s id'],
    ['an id that clipd uses', ['--name', 'mnt'], 'clipd uses that name'],
    ['a user that is not in the image', ['-u', 'nobody-here'], 'the image has no user "nobody-here"'],
    ['a group that is not in the image', ['-u', 'app:none'], 'the image has no group "none"'],
    ['a directory that is not in the image', ['-w', '/none'], 'the working directory /none is not in the image'],
    ['a relative directory', ['-w', 'none'], 'is not an absolute path'],
    ['a volume without a source', ['-v', '/none/here:/x'], "the volume's source /none/here does not exist"],
    ['no such runtime', ['--runtime', 'nope'], 'this machine has no container runtime nope'],
    ['a terminal without one', ['-t'], '-t needs a terminal'],
    ['a slash in an id', ['--name', 'a/b'], '"a/b" cannot be a container\'s id'],
    ['an id of 300 characters', ['--name', 'a'.repeat(300)], 'cannot be a container'],
    ['a missing group', ['-u', '1000:nogroup'], 'the image has no group "nogroup"'],
    ['a directory that is a file', ['-w', '/etc/passwd'], 'is no directory'],
    ['too little memory', ['--memory', '1k'], 'a memory limit of 1024 bytes is too low to start in'],
    ['no processor', ['--cpus', '0'], "option '--cpus <n>' argument '0' is invalid"],
    ['a relative volume without a source', ['-v', 'none-here:/x'], 'none-here does not exist'],
    ['a relative destination', ['-v', '/tmp:x'], 'DST an absolute path'],
    ['a volume on the root', ['-v', '/tmp:/'], "the container's root is the image"],
    [
      'a directory on a file',
      ['-v', '/tmp:/etc/passwd'],
      '/tmp is a directory, and /etc/passwd of the image is no directory',
    ],
    [
      'a file on a directory',
      ['-v', '/etc/passwd:/etc'],
      '/etc/passwd is no directory, and /etc of the image is a directory',
    ],
    ['two things at one place', ['-v', '/tmp:/x', '--tmpfs', '/x/'], 'two things are to be mounted at /x'],
    ['memory of a bad size', ['--tmpfs', '/x:size=bad'], '"size=bad" is no option of a tmpfs'],
    ['memory with an unknown option', ['--tmpfs', '/x:foo=bar'], '"foo=bar" is no option of a tmpfs'],
    ['a variable without a name', ['-e', '=x'], '"=x" is no environment variable'],
    ['a bad host name', ['--hostname', 'a b'], '"a b" is no host name'],
    ['a missing upper directory', ['--upper', '/none/x'], '--upper /none/x: there is no such directory'],
    ['a missing base', ['--mount-base', '/none'], '--mount-base /none: there is no such directory'],
    ['no command', ['--entrypoint', ''], 'the image names no command'],
    ['an unknown flag', ['--none'], "unknown option '--none'"],
    ['two writable layers', ['--upper', '/tmp', '--tmpfs-upper', '1M'], 'exclude each other'],
  ];
  test.each([
    ['no such runtime', ['--runtime', 'nope'], 'has no container runtime nope'],
    ['a bad id', ['--name', 'a b'], "cannot be a container's id"],
    ['an id in use', ['--name', 'taken'], 'the container id taken is in use'],
    ['a missing file of variables', ['--env-file', '/none'], 'cannot read the environment file /none'],
    ['a missing source', ['-v', '/none/here:/x'], "the volume's source /none/here does not exist"],
    ['a missing upper directory', ['--upper', '/none/x'], '--upper /none/x: there is no such directory'],
    ['too little memory', ['-m', '1k'], 'too low to start in'],
  ] as const)('%s is told before the image is indexed', async (_name, args, why) => {
    mkdirSync(clip.path('other/taken'), { recursive: true, mode: 0o700 });
    const env = { ...clip.env, CLIP_ROOT: clip.path('other'), CLIP_CACHE_DIR: clip.path('none-yet') };
    // As a shell starts it: Node itself would read an --env-file.
    const ran = await runProgram(PROGRAM, ['run', '--rm', ...args, image.reference, 'true'], { env });
    expect([ran.code, ran.stderr]).toEqual([125, expect.stringContaining(why)]);
    expect(existsSync(clip.path('none-yet/archives'))).toBe(false);
    rmSync(clip.path('other'), { recursive: true });
  });

  test.each(cases)('%s: exit code 125, one line, the next step, and nothing left', async (name, args, why) => {
    const command = name === 'no command' ? [] : ['true'];
    const ran = await clip.run(['run', '--rm', ...args, image.reference, ...command]);
    expect([ran.code, ran.stdout]).toEqual([125, '']);
    expect(ran.stderr).toContain(why);
    // One line more where commander knows a flag of a similar name.
    expect(ran.stderr.trimEnd().split('\n').length).toBeLessThanOrEqual(name === 'an unknown flag' ? 3 : 2);
    expect(leftovers()).toEqual([]);
  });

  test('an environment file is clip’s to read, not Node’s', async () => {
    const env = (...args: string[]): Promise<Ran> => runProgram(PROGRAM, ['run', '--rm', ...args], { env: clip.env });
    const missing = await env('--env-file', '/none', image.reference, 'true');
    expect([missing.code, missing.stderr]).toEqual([
      125,
      expect.stringMatching(/^clipctl: cannot read .*\/none.*\n {2}/),
    ]);
    writeFileSync(clip.path('other-root'), `CLIP_ROOT=${clip.path('elsewhere')}\nINSIDE=yes\n`);
    const { CLIP_ROOT, ...without } = clip.env;
    const ran = await runProgram(
      PROGRAM,
      ['run', '--rm', '--root', CLIP_ROOT!, '--env-file', clip.path('other-root'), image.reference, 'echo $INSIDE'],
      { env: without },
    );
    expect([ran.code, ran.stdout]).toEqual([0, 'yes\n']);
  });

  test('what only the runtime finds out is said once, by the runtime, with our next step', async () => {
    const ran = await clip.run(['run', '--rm', '--tmpfs', '/x:mode=0755,mpol=none', image.reference, 'true']);
    expect(ran.code).toBe(125);
    expect(ran.stderr.match(/mpol=none/g)).toHaveLength(1);
    expect(ran.stderr).toMatch(
      /clipctl: the container did not start: the line above says why\n {2}look at --volume and --tmpfs\n$/,
    );
  });

  test('an image for another processor: a warning that explains what exec says', async () => {
    const architecture = process.arch === 'arm64' ? 'amd64' : 'arm64';
    const stage = new Stage().file(
      'bin/true',
      Buffer.concat([Buffer.from('\x7fELF\x02\x01\x01', 'latin1'), Buffer.alloc(200)]),
      0o755,
    );
    const foreign = stage.image({ Cmd: ['/bin/true'] }, 'gzip', architecture);
    try {
      const ran = await clip.run(['run', '--rm', '--platform', `linux/${architecture}`, foreign.reference]);
      expect(ran.code).not.toBe(0);
      expect(ran.stderr).toMatch(
        /warning: the image is for linux\/\w+, this machine is linux\/\w+: .*exec format error/,
      );
    } finally {
      foreign.remove();
    }
  });

  test('a full writable layer', async () => {
    const ran = await clip.run([
      'run',
      '--rm',
      '--tmpfs-upper',
      '64k',
      image.reference,
      'head -c 200000 /dev/zero > /home/app/x',
    ]);
    expect([ran.code, ran.stderr]).toEqual([1, expect.stringMatching(/No space left|I\/O error/)]);
  });
});

test('--plane unpack runs without a mount of clipd’s', async () => {
  const ran = await clip.run(['run', '--rm', '--plane', 'unpack', '--stats', image.reference, 'id -un; ls /etc']);
  expect([ran.code, ran.stdout]).toEqual([0, 'app\ngroup\nhostname\nhosts\npasswd\nresolv.conf\n']);
  expect(ran.stderr).toMatch(
    /^clipctl: archive found after \d+ ms; then first exec after \d+ ms, first output after \d+ ms; /m,
  );
});

test('run --stats tells a report when the first process began, and its first output', async () => {
  await clip.ok(
    'run',
    '--name',
    own('told'),
    '--stats',
    '--entrypoint',
    'sh',
    image.reference,
    '-c',
    'sleep 0.2; echo hello',
  );
  const told = await clip.json<{ firstExec: number; firstOutput: number }>(
    'report',
    own('told'),
    '--out',
    clip.path('told.html'),
  );
  expect(told.firstExec).toBeGreaterThan(0);
  expect(told.firstOutput).toBeGreaterThan(told.firstExec + 100);
  expect((await clip.ok('report', own('told'), '--out', clip.path('told.html'))).stdout).toMatch(
    /^ {2}first exec \d+\.\d s, first output \d+\.\d s after the mount$/m,
  );
  await clip.ok('umount', '--cid', own('told'));
});

test('stats and ps say when a container’s first process began, and when its first read was served', async () => {
  await clip.run(['daemon', '--stop']);
  await clip.ok('cache', 'prune');
  await clip.ok('run', '-d', '--name', own('timed'), image.reference, 'cat /usr/share/large > /dev/null; sleep 1000');
  type Connection = { firstRead: number | null; firstExecs: number[] };
  const timed = async (): Promise<Connection> =>
    (await clip.json<{ connections: Connection[] }>('stats')).connections[0]!;
  await eventually(async () => {
    const { firstRead, firstExecs } = await timed();
    return firstExecs.length === 1 && firstRead !== null;
  });
  const { firstRead, firstExecs } = await timed();
  expect(firstRead).toBeGreaterThan(0);
  expect(firstExecs[0]).toBeGreaterThan(0);
  await clip.ok('umount', '--cid', own('timed'), '--force');
});
