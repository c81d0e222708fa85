import { spawnSync } from 'node:child_process';

/** Headlines of what the kernel says when something of it went wrong. */
const TROUBLE = /WARNING:|BUG:|Oops|general protection|Call Trace|blocked for more than|kernel BUG|refcount_t/;

/** The trouble that the kernel has logged, without what it had logged `before`: none is to be added by a test. */
export function kernelTrouble(before: readonly string[] = []): string[] {
  const ran = spawnSync('dmesg', { encoding: 'utf8', maxBuffer: 1 << 26 });
  if (ran.status !== 0) throw new Error(`dmesg: ${ran.stderr}`);
  return ran.stdout.split('\n').filter((line) => TROUBLE.test(line) && !before.includes(line));
}
