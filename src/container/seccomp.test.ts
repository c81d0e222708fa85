import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { DEFAULT_CAPABILITIES } from './defaults.js';
import { seccompFor } from './seccomp.js';

interface Rule {
  readonly names: readonly string[];
  readonly action: string;
  readonly errnoRet?: number;
  readonly args?: readonly { readonly value: number }[];
}

const rules = (capabilities: readonly string[], processor: string): readonly Rule[] =>
  seccompFor(capabilities, processor).syscalls as readonly Rule[];
const allowed = (list: readonly Rule[]): Set<string> =>
  new Set(
    list.filter((rule) => rule.action === 'SCMP_ACT_ALLOW' && rule.args === undefined).flatMap((rule) => rule.names),
  );

test('the profile is the published file, unchanged', () => {
  const bytes = readFileSync(new URL('./seccomp-moby.json', import.meta.url));
  expect([bytes.length, createHash('sha256').update(bytes).digest('hex')]).toEqual([
    17219,
    '611e929e2fac2aff8a44ebcea0f64a0d5136a09047873d0cc4cbc9446742f7b1',
  ]);
});

test('keeps the rules of this processor and of the capabilities that the container has', () => {
  const docker = rules(DEFAULT_CAPABILITIES, 'x64');
  expect(allowed(docker).has('openat')).toBe(true);
  expect(allowed(docker).has('chroot')).toBe(true); // CAP_SYS_CHROOT is one of Docker's
  expect(allowed(docker).has('arch_prctl')).toBe(true);
  for (const name of ['mount', 'unshare', 'bpf', 'io_uring_setup', 'keyctl', 'kexec_load', 'cacheflush']) {
    expect([name, allowed(docker).has(name)]).toEqual([name, false]);
  }
  // clone without namespaces; clone3, whose flags a filter cannot see, does not exist.
  expect(docker.find((rule) => rule.names.includes('clone'))?.args?.[0]?.value).toBe(0x7e020000);
  expect(docker.find((rule) => rule.names.includes('clone3'))).toMatchObject({
    action: 'SCMP_ACT_ERRNO',
    errnoRet: 38,
  });

  const admin = allowed(rules([...DEFAULT_CAPABILITIES, 'CAP_SYS_ADMIN'], 'x64'));
  for (const name of ['mount', 'unshare', 'clone', 'clone3']) expect([name, admin.has(name)]).toEqual([name, true]);
  const arm = allowed(rules(DEFAULT_CAPABILITIES, 'arm64'));
  expect([arm.has('cacheflush'), arm.has('arch_prctl')]).toEqual([true, false]);
});

test('names the architectures that a program of the image may be of', () => {
  expect(seccompFor([], 'x64').architectures).toEqual(['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32']);
  expect(seccompFor([], 'arm64').architectures).toEqual(['SCMP_ARCH_AARCH64', 'SCMP_ARCH_ARM']);
  expect(seccompFor([], 'riscv64').architectures).toEqual(['SCMP_ARCH_RISCV64']);
  expect(seccompFor([], 'none').architectures).toEqual([]);
});
