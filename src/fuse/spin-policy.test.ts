import { describe, expect, it } from 'vitest';
import { SpinPolicy } from './spin-policy.js';

/** Half a microsecond a poll, in ms. */
const POLL = 0.0005;

/** Runs `requests` of a reader that comes back after `sleeping` or `polling` ms, as the server waits. Gives the share that were polled for. */
function converse(policy: SpinPolicy, requests: number, sleeping: number, polling: number, start = 0): number {
  let now = start;
  let polled = 0;
  for (let i = 0; i < requests; i++) {
    const patience = policy.spins * POLL;
    const polls = policy.spins > 0;
    if (polls) polled++;
    const cycle = polls ? polling : sleeping;
    now += cycle;
    policy.arrived(now, polls && cycle <= patience ? 0 : cycle - patience);
  }
  return polled / requests;
}

describe('SpinPolicy', () => {
  it('polls where that makes a reader come back sooner', () => {
    const policy = new SpinPolicy(true);
    converse(policy, 1000, 0.075, 0.027);
    expect(converse(policy, 10_000, 0.075, 0.027, 1000)).toBeGreaterThan(0.85);
  });

  it('sleeps where polling keeps the reader from its core', () => {
    const policy = new SpinPolicy(true);
    converse(policy, 1000, 0.028, 0.045);
    expect(converse(policy, 10_000, 0.028, 0.045, 1000)).toBeLessThan(0.15);
  });

  it('changes its mind when the machine gets busy', () => {
    const policy = new SpinPolicy(true);
    converse(policy, 5000, 0.075, 0.027);
    converse(policy, 3000, 0.028, 0.045, 1000);
    expect(converse(policy, 10_000, 0.028, 0.045, 2000)).toBeLessThan(0.15);
    converse(policy, 10_000, 0.075, 0.027, 3000);
    expect(converse(policy, 10_000, 0.075, 0.027, 4000)).toBeGreaterThan(0.85);
  });

  it('does not poll between requests that are far apart', () => {
    const policy = new SpinPolicy(true);
    converse(policy, 20, 3, 3);
    expect(converse(policy, 1000, 3, 3, 1000)).toBe(0);
    expect(policy.spins).toBe(0);
  });

  it('never polls on a single core', () => {
    expect(converse(new SpinPolicy(false), 1000, 0.075, 0.027)).toBe(0);
  });
});
