import { readFileSync } from 'node:fs';

/*
 * Docker's default profile as moby/profiles publishes it (seccomp/default.json, commit 02e898b; Apache-2.0, the licence of this
 * project), kept as it is in seccomp-moby.json. Its rules name the capabilities and processors they hold for; a runtime wants
 * the rules that hold.
 */

interface Condition {
  readonly caps?: readonly string[];
  readonly arches?: readonly string[];
  /** "4.8": our own minimum is newer than any that the profile names. */
  readonly minKernel?: string;
}

interface ProfileRule {
  readonly names: readonly string[];
  readonly action: string;
  readonly errnoRet?: number;
  readonly args?: readonly unknown[];
  readonly includes?: Condition;
  readonly excludes?: Condition;
}

interface Profile {
  readonly defaultAction: string;
  readonly defaultErrnoRet: number;
  readonly archMap: readonly { readonly architecture: string; readonly subArchitectures: readonly string[] | null }[];
  readonly syscalls: readonly ProfileRule[];
}

/** `linux.seccomp` of the runtime specification. */
export interface Seccomp {
  readonly defaultAction: string;
  readonly defaultErrnoRet: number;
  readonly architectures: readonly string[];
  readonly syscalls: readonly unknown[];
}

/** Node's names of processors in the profile's two vocabularies. */
const ARCHITECTURES: Readonly<Record<string, readonly [go: string, seccomp: string]>> = {
  x64: ['amd64', 'SCMP_ARCH_X86_64'],
  arm64: ['arm64', 'SCMP_ARCH_AARCH64'],
  riscv64: ['riscv64', 'SCMP_ARCH_RISCV64'],
  loong64: ['loongarch64', 'SCMP_ARCH_LOONGARCH64'],
  s390x: ['s390x', 'SCMP_ARCH_S390X'],
};

function holds(rule: ProfileRule, arch: string, capabilities: readonly string[]): boolean {
  const { includes = {}, excludes = {} } = rule;
  if (excludes.arches?.includes(arch)) return false;
  if (excludes.caps?.some((one) => capabilities.includes(one))) return false;
  if (includes.arches !== undefined && !includes.arches.includes(arch)) return false;
  return includes.caps?.every((one) => capabilities.includes(one)) ?? true;
}

/** The profile's rules for a container with these capabilities on this kind of processor (Node's `process.arch`). */
export function seccompFor(capabilities: readonly string[], processor: string = process.arch): Seccomp {
  const profile = JSON.parse(readFileSync(new URL('./seccomp-moby.json', import.meta.url), 'utf8')) as Profile;
  const [go, native] = ARCHITECTURES[processor] ?? [processor, ''];
  const family = profile.archMap.find(({ architecture }) => architecture === native);
  const architectures = family === undefined ? [] : [family.architecture, ...(family.subArchitectures ?? [])];
  const syscalls = profile.syscalls
    .filter((rule) => holds(rule, go, capabilities))
    .map(({ names, action, errnoRet, args }) => ({
      names,
      action,
      ...(errnoRet === undefined ? {} : { errnoRet }),
      ...(args === undefined ? {} : { args }),
    }));
  return {
    defaultAction: profile.defaultAction,
    defaultErrnoRet: profile.defaultErrnoRet,
    architectures,
    syscalls,
  };
}
