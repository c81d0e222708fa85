import { describe, expect, test } from 'vitest';
import { FormatError } from '../bytes/index.js';
import { runConfigOf } from './image-config.js';
import { argsOf, buildSpec, environmentOf, type ProcessOptions } from './spec.js';

const USER = { uid: 1000, gid: 1000, additionalGids: [10], home: '/home/app' };
const CONFIG = runConfigOf(
  {
    config: {
      Entrypoint: ['/entry'],
      Cmd: ['one', 'two'],
      Env: ['PATH=/opt/bin', 'A=1=2', 'odd'],
      User: 'app',
      WorkingDir: '/w',
    },
  },
  'test',
);

describe('argsOf', () => {
  const args = (options: ProcessOptions): readonly string[] => argsOf(CONFIG, options, true);
  test('entrypoint and command, each replaced as docker run does', () => {
    expect(args({})).toEqual(['/entry', 'one', 'two']);
    expect(args({ args: ['x'] })).toEqual(['/entry', 'x']);
    expect(args({ args: [] })).toEqual(['/entry', 'one', 'two']);
    expect(args({ entrypoint: 'sh', args: ['-c', ''] })).toEqual(['sh', '-c', '']);
    expect(args({ entrypoint: '', args: ['x'] })).toEqual(['x']);
  });
  test('a new entrypoint drops the command of the image, and then something has to be given', () => {
    expect(args({ entrypoint: 'sh' })).toEqual(['sh']);
    expect(() => args({ entrypoint: '' })).toThrow(/names no command/);
    expect(argsOf(runConfigOf({}, 'test'), {}, false)).toEqual(['/bin/sh']);
  });
});

test('environmentOf: the image, then what was asked for; the later one wins, a name alone takes it out', () => {
  const env = environmentOf(CONFIG, { env: ['A=3', 'B=', 'PATH'], terminal: true }, { user: USER, hostname: 'h' });
  expect(env).toEqual(['HOSTNAME=h', 'TERM=xterm', 'A=3', 'B=', 'HOME=/home/app']);
});

describe('runConfigOf refuses what is not as the image specification says, by field', () => {
  test.each([
    [{ config: [] }, 'config is not an object'],
    [{ config: { Env: 'A=1' } }, 'Env is not a list'],
    [{ config: { Cmd: [1] } }, 'Cmd is not a list'],
    [{ config: { Entrypoint: ['a\0b'] } }, 'Entrypoint is not a list of strings without NUL'],
    [{ config: { User: 7 } }, 'User is not a string'],
    [{ config: { WorkingDir: {} } }, 'WorkingDir is not a string'],
    [{ config: { Env: Array(10_001).fill('A=1') } }, 'Env is not a list'],
  ])('%j', (config, message) => {
    expect(() => runConfigOf(config, 'IMAGE')).toThrow(FormatError);
    expect(() => runConfigOf(config, 'IMAGE')).toThrow(message);
  });
  test('null, as Docker writes for none, is none', () => {
    expect(runConfigOf({ config: { Env: null, Cmd: null, User: null } }, 'x')).toEqual(runConfigOf({}, 'x'));
  });
});

describe('buildSpec', () => {
  const facts = {
    id: 'box',
    rootfs: '/r',
    user: USER,
    etc: { hosts: '/b/hosts', hostname: '/b/hostname', 'resolv.conf': '/b/resolv.conf' },
    rootless: null,
    network: null,
    maxOpenFiles: 4096,
  } as const;
  interface Spec {
    process: { capabilities: Record<string, string[]>; rlimits: unknown[] };
    mounts: { destination: string; type: string; options: string[]; source: string }[];
    hooks?: object;
    linux: Record<string, unknown> & { namespaces: { type: string; path?: string }[] };
  }
  const spec = (options: ProcessOptions, more: object = {}): Spec =>
    buildSpec(CONFIG, options, { ...facts, ...more }) as unknown as Spec;

  test('a user other than root has capabilities in the bounding set only', () => {
    const { capabilities } = spec({}).process;
    expect([capabilities.effective, capabilities.permitted, capabilities.ambient]).toEqual([[], [], []]);
    expect(capabilities.bounding).toHaveLength(14);
    expect(spec({}, { user: { ...USER, uid: 0 } }).process.capabilities.effective).toHaveLength(14);
  });

  test('the limit of open files is never above what this process may grant', () => {
    expect(spec({}).process.rlimits).toEqual([{ type: 'RLIMIT_NOFILE', soft: 1024, hard: 4096 }]);
  });

  test('networks', () => {
    const network = (options: ProcessOptions): object | undefined =>
      spec(options).linux.namespaces.find(({ type }) => type === 'network');
    expect(network({})).toBeUndefined();
    expect(network({ net: 'none' })).toEqual({ type: 'network' });
    expect(network({ net: { path: '/run/netns/x' } })).toEqual({ type: 'network', path: '/run/netns/x' });
    const own = { kind: 'private', ports: [], netns: '/run/clip/box/netns', cni: null, address: null, hook: null };
    expect(spec({}, { network: own }).linux.namespaces.at(-1)).toEqual({ type: 'network', path: own.netns });
    const hooked = spec({}, { network: { ...own, netns: null, hook: ['/bin/sh', '-c', 'x'] } });
    expect(hooked.linux.namespaces.at(-1)).toEqual({ type: 'network' });
    expect(hooked.hooks).toEqual({ createRuntime: [{ path: '/bin/sh', args: ['/bin/sh', '-c', 'x'] }] });
  });

  test('volumes and memory come after the default mounts, as they were asked for', () => {
    const { mounts } = spec({
      volumes: [{ source: '/s', destination: '/d', readOnly: true }],
      tmpfs: ['/t:size=1m,exec'],
    });
    expect(mounts.at(-1)).toEqual({
      destination: '/d',
      type: 'bind',
      source: '/s',
      options: ['rbind', 'rprivate', 'ro'],
    });
    expect(mounts.at(-2)).toMatchObject({
      destination: '/t',
      options: ['nosuid', 'nodev', 'noexec', 'size=1m', 'exec'],
    });
    expect(mounts.find(({ destination }) => destination === '/etc/hosts')?.source).toBe('/b/hosts');
  });

  test('limits', () => {
    expect(spec({ memory: 2 ** 20, cpus: 1.5 }).linux.resources).toMatchObject({
      memory: { limit: 2 ** 20 },
      cpu: { period: 100_000, quota: 150_000 },
      devices: [{ allow: false, access: 'rwm' }],
    });
  });

  test('without root: a user namespace of one id, no cgroup, and no group that the namespace lacks', () => {
    const { linux, mounts } = spec({}, { rootless: { uid: 1000, gid: 1001 } });
    expect(linux.uidMappings).toEqual([{ containerID: 0, hostID: 1000, size: 1 }]);
    expect(linux.namespaces.map(({ type }) => type)).toContain('user');
    expect(linux.cgroupsPath).toBeUndefined();
    expect(mounts.some(({ type }) => type === 'cgroup')).toBe(false);
    expect(mounts.find(({ destination }) => destination === '/dev/pts')?.options).not.toContain('gid=5');
    expect(mounts.find(({ destination }) => destination === '/sys')?.options).toContain('rbind');
  });
});
