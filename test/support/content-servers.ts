import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { freePort } from './processes.js';

const runFile = promisify(execFile);

/** A server process with a directory of its own. */
export interface ServerProcess {
  readonly port: number;
  readonly child: ChildProcess;
  /** SIGKILL, and waits for the end. */
  kill(): Promise<void>;
  /** Kills it if it still runs, and removes its files. */
  stop(): Promise<void>;
}

async function listens(port: number): Promise<boolean> {
  return new Promise<boolean>((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}

async function start(
  command: string,
  args: (dir: string, port: number) => readonly string[],
  onPort?: number,
): Promise<ServerProcess> {
  const port = onPort ?? (await freePort());
  const dir = mkdtempSync(join(tmpdir(), 'clip-server-'));
  const child = spawn(command, args(dir, port), { stdio: 'ignore' });
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()).once('error', () => resolve()));
  const server: ServerProcess = {
    port,
    child,
    kill: async () => {
      child.kill('SIGKILL');
      await ended;
    },
    stop: async () => {
      await server.kill();
      rmSync(dir, { recursive: true, force: true });
    },
  };
  for (let i = 0; i < 600 && child.exitCode === null; i++) {
    if (await listens(port)) return server;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  await server.stop();
  throw new Error(`${command} does not listen on ${port}`);
}

/** Debian's redis-server, on a port of its own or on the one given. */
export function startRedis(port?: number, ...options: readonly string[]): Promise<ServerProcess> {
  return start(
    'redis-server',
    (dir, p) => ['--port', String(p), '--save', '', '--bind', '127.0.0.1', '--dir', dir, ...options],
    port,
  );
}

export async function redisCli(port: number, ...args: readonly string[]): Promise<string> {
  return (await runFile('redis-cli', ['-h', '127.0.0.1', '-p', String(port), ...args])).stdout.trim();
}

export interface RedisClusterProcesses {
  readonly nodes: readonly ServerProcess[];
  /** As `--content-cache` takes it, without parameters. */
  readonly url: string;
  stop(): Promise<void>;
}

/** Three masters that share the slots. */
export async function startRedisCluster(): Promise<RedisClusterProcesses> {
  const nodes = await Promise.all(
    [0, 1, 2].map(async () => {
      const bus = String(await freePort());
      return startRedis(
        undefined,
        ...['--cluster-enabled', 'yes', '--cluster-port', bus, '--cluster-node-timeout', '2000'],
        ...['--cluster-require-full-coverage', 'no'],
      );
    }),
  );
  const stop = async (): Promise<void> => {
    await Promise.all(nodes.map((node) => node.stop()));
  };
  try {
    const [first] = nodes;
    const config = async (node: ServerProcess, name: string): Promise<string> =>
      (await redisCli(node.port, 'config', 'get', name)).split('\n').at(-1)!;
    await Promise.all(
      nodes.map(async (node, i) => {
        const [from, to] = [Math.ceil((16384 * i) / 3), Math.ceil((16384 * (i + 1)) / 3) - 1];
        await redisCli(node.port, 'cluster', 'addslotsrange', String(from), String(to));
        await redisCli(node.port, 'config', 'set', 'cluster-announce-ip', '127.0.0.1');
      }),
    );
    for (const node of nodes.slice(1)) {
      const bus = await config(node, 'cluster-port');
      await redisCli(first!.port, 'cluster', 'meet', '127.0.0.1', String(node.port), bus);
    }
    for (let i = 0; i < 400; i++) {
      const states = await Promise.all(nodes.map((node) => redisCli(node.port, 'cluster', 'info')));
      const whole = (state: string): boolean =>
        state.includes('cluster_state:ok') &&
        state.includes('cluster_slots_assigned:16384') &&
        state.includes('cluster_known_nodes:3');
      if (states.every(whole))
        return { nodes, url: `redis://${nodes.map((n) => `127.0.0.1:${n.port}`).join(',')}/`, stop };
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error('the Redis cluster does not come together');
  } catch (error) {
    await stop();
    throw error;
  }
}

/** s3rver with one bucket, "clip": the S3 protocol over files in a directory. */
export const S3_CREDENTIALS = { accessKeyId: 'S3RVER', secretAccessKey: 'S3RVER' } as const;

export function startS3(port?: number): Promise<ServerProcess> {
  const main = createRequire(import.meta.url).resolve('s3rver/bin/s3rver.js');
  return start(
    process.execPath,
    (dir, p) => [main, '-d', dir, '-a', '127.0.0.1', '-p', String(p), '--silent', '--configure-bucket', 'clip'],
    port,
  );
}

/** Passes TCP connections on to a port, and cuts each after a number of bytes of answers: a server that dies in the middle of an answer. */
export async function cutter(
  port: number,
): Promise<{ port: number; after: number; cuts: number; close(): Promise<void> }> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    const upstream = connect(port, '127.0.0.1');
    let passed = 0;
    const end = (): void => {
      socket.destroy();
      upstream.destroy();
    };
    for (const one of [socket, upstream]) {
      sockets.add(one);
      one.on('error', end).on('close', () => {
        sockets.delete(one);
        end();
      });
    }
    socket.on('data', (chunk) => upstream.write(chunk));
    upstream.on('data', (chunk) => {
      const left = handle.after - passed;
      passed += chunk.length;
      if (chunk.length <= left) {
        socket.write(chunk);
        return;
      }
      handle.cuts++;
      socket.write(chunk.subarray(0, left), end);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const handle = {
    port: (server.address() as { port: number }).port,
    after: Number.POSITIVE_INFINITY,
    cuts: 0,
    close: async (): Promise<void> => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return handle;
}
