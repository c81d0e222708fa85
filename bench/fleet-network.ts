import { type ProgramOptions, type Ran, runProgram } from '../test/support/clipctl.js';
import { type BenchContext, run } from './support.js';

/** Addresses that are for benchmarks of networks (RFC 2544). */
const NETWORK = '198.18.77';
const BRIDGE = 'clipfleet';
/** A tbf lets this much go at once: four of the largest segments that the kernel hands over. */
const BURST = '256kb';
/** What waits longer than this is dropped, as by a switch. */
const QUEUE = '50ms';

/** A machine as far as the network goes: a namespace with one link, by which it reaches the bridge and nothing else. */
export interface Machine {
  readonly name: string;
  run(command: string, args: readonly string[], options?: ProgramOptions): Promise<Ran>;
}

export interface Fleet {
  /** Of this machine on the bridge: the machines reach what listens there. */
  readonly address: string;
  readonly machines: readonly Machine[];
}

/** Machines with a link of their own each. They go when the suite is over. */
export async function makeFleet(ctx: BenchContext, count: number, bytesPerSecond: number): Promise<Fleet> {
  const ip = (...args: string[]): Promise<Ran> => run('ip', args);
  const address = `${NETWORK}.1`;
  // A bench that was killed leaves them.
  for (let i = 1; i <= count; i++) {
    await runProgram('ip', ['link', 'del', `${BRIDGE}${i}`]);
    await runProgram('ip', ['netns', 'del', `${BRIDGE}-${i}`]);
  }
  await runProgram('ip', ['link', 'del', BRIDGE]);
  await ip('link', 'add', BRIDGE, 'type', 'bridge');
  ctx.defer(async () => void (await ip('link', 'del', BRIDGE)));
  await ip('address', 'add', `${address}/24`, 'dev', BRIDGE);
  await ip('link', 'set', BRIDGE, 'up');
  const machines: Machine[] = [];
  for (let i = 1; i <= count; i++) {
    const name = `${BRIDGE}-${i}`;
    const outer = `${BRIDGE}${i}`;
    await ip('netns', 'add', name);
    ctx.defer(async () => void (await ip('netns', 'del', name)));
    await ip('link', 'add', outer, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name);
    await ip('link', 'set', outer, 'master', BRIDGE, 'up');
    await ip('-n', name, 'address', 'add', `${NETWORK}.${i + 10}/24`, 'dev', 'eth0');
    await ip('-n', name, 'link', 'set', 'eth0', 'up');
    await ip('-n', name, 'link', 'set', 'lo', 'up');
    const rate = ['rate', `${bytesPerSecond}bps`, 'burst', BURST, 'latency', QUEUE];
    await run('tc', ['qdisc', 'add', 'dev', outer, 'root', 'tbf', ...rate]);
    machines.push({
      name,
      // Not `ip netns exec`, which would give it a mount namespace of its own.
      run: (command, args, options) => runProgram('nsenter', [`--net=/run/netns/${name}`, command, ...args], options),
    });
  }
  return { address, machines };
}
