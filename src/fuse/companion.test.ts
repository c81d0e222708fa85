import { describe, expect, it } from 'vitest';
import { Companion, type CompanionKernel } from './companion.js';

const FREE = -1;
const CLIENT = 4711;

/** Two workers (threads 101 and 102) on a machine of eight CPUs that looks threads up where the test has put them. */
class Machine implements CompanionKernel {
  readonly words = new Int32Array(new SharedArrayBuffer(Companion.words(2) * 4));
  readonly pinned = new Map<number, number>();
  clientCpu = 3;
  looks = 0;
  #threads = 100;
  readonly workers = [new Companion(this.words, 1, this), new Companion(this.words, 2, this)] as const;

  threadId(): number {
    return ++this.#threads;
  }
  lastCpuOf(thread: number): number {
    this.looks++;
    return thread === CLIENT ? this.clientCpu : -1;
  }
  pin(thread: number, cpu: number): boolean {
    if (cpu >= 8) return false;
    this.pinned.set(thread, cpu);
    return true;
  }
  release(thread: number): void {
    this.pinned.set(thread, FREE);
  }
  /** Worker 1 leads and answers. @returns what join() says then */
  serve(requests: number, thread = CLIENT): boolean {
    const [leader] = this.workers;
    let joined = false;
    for (let i = 0; i < requests; i++) {
      leader.taken(thread);
      leader.answered(1);
      joined = leader.join();
    }
    return joined;
  }
}

describe('Companion', () => {
  it('moves the leader to the CPU of a thread that is the only one to ask', () => {
    const machine = new Machine();
    expect(machine.serve(2)).toBe(false);
    expect(machine.pinned.get(101)).toBeUndefined();
    expect(machine.serve(10)).toBe(true);
    expect(machine.pinned.get(101)).toBe(3);
  });

  it('lets it go when another thread asks', () => {
    const machine = new Machine();
    machine.serve(10);
    expect(machine.serve(1, 4712)).toBe(false);
    expect(machine.pinned.get(101)).toBe(FREE);
  });

  it('lets threads that take turns be', () => {
    const machine = new Machine();
    for (let i = 0; i < 100; i++) expect(machine.serve(1, 4000 + (i % 2))).toBe(false);
    expect([machine.looks, machine.pinned.size]).toEqual([0, 0]);
  });

  it('does not follow what it cannot see: threads of other process id namespaces, and CPUs that are not ours', () => {
    const machine = new Machine();
    expect(machine.serve(20, 0)).toBe(false);
    expect(machine.serve(20, 4712)).toBe(false);
    machine.clientCpu = 8;
    expect(machine.serve(20)).toBe(false);
    expect(machine.pinned.size).toBe(0);
  });

  it('looks seldom while the thread stays, and at each request while it moves', () => {
    const machine = new Machine();
    machine.serve(100);
    machine.looks = 0;
    machine.serve(320);
    expect(machine.looks).toBe(10);
    machine.clientCpu = 1;
    machine.serve(32); // one of them looks
    machine.looks = 0;
    for (let i = 0; i < 10; i++) {
      machine.clientCpu = 5 - machine.clientCpu;
      machine.serve(1);
      expect(machine.pinned.get(101)).toBe(machine.clientCpu);
    }
    expect(machine.looks).toBe(10);
  });

  it('sends the next leader after a thread that waited for the disk, once it has its answer', () => {
    const machine = new Machine();
    const [first, second] = machine.workers;
    machine.serve(10);
    first.taken(CLIENT);
    first.delay();
    expect(machine.pinned.get(101)).toBe(FREE);
    expect(second.join()).toBe(false);
    machine.clientCpu = 6;
    first.answered(2);
    expect(machine.pinned.get(102)).toBe(6);
    expect(second.join()).toBe(true);
    second.leave();
    expect(machine.pinned.get(102)).toBe(FREE);
  });
});
