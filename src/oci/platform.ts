import { arch, endianness } from 'node:os';
import { ClipError } from '../bytes/index.js';

export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant?: string | undefined;
}

/** Node's names for processors, and Go's, which images use. */
const GO_ARCH: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386', loong64: 'loong64', mipsel: 'mipsle' };
/** What people write, as containerd's platforms package folds it. */
const ALIASES: Readonly<Record<string, string>> = {
  x86_64: 'amd64',
  'x86-64': 'amd64',
  aarch64: 'arm64',
  armhf: 'arm',
  armel: 'arm',
  i386: '386',
};
/** The variant that an architecture has when none is said (containerd platforms/database.go). */
const DEFAULT_VARIANT: Readonly<Record<string, string>> = { arm64: 'v8', arm: 'v7', amd64: 'v1' };

/** The platform this program runs on. The OS is always linux: clip mounts nowhere else. */
export function hostPlatform(): Platform {
  const name = arch();
  if (name === 'ppc64') return { os: 'linux', architecture: endianness() === 'LE' ? 'ppc64le' : 'ppc64' };
  return { os: 'linux', architecture: GO_ARCH[name] ?? name };
}

/** Parses "os/arch[/variant]". @throws ClipError USAGE */
export function parsePlatform(text: string): Platform {
  const parts = text.trim().toLowerCase().split('/');
  if (parts.length < 2 || parts.length > 3 || !parts.every((part) => /^[a-z0-9_.-]+$/.test(part))) {
    throw new ClipError('USAGE', `"${text}" is not a platform`, {
      hint: 'write os/arch[/variant], such as linux/amd64',
    });
  }
  const [os, name, variant] = parts as [string, string, string?];
  const architecture = ALIASES[name] ?? name;
  const implied = name === 'armel' ? 'v6' : undefined;
  const effective = variant ?? implied;
  return effective === undefined ? { os, architecture } : { os, architecture, variant: effective };
}

export function formatPlatform(platform: Platform): string {
  return [platform.os, platform.architecture, platform.variant]
    .filter((part) => part !== undefined && part !== '')
    .join('/');
}

function variantOf(platform: Platform): string {
  return platform.variant || DEFAULT_VARIANT[platform.architecture] || '';
}

/**
 * How well `offered` runs where `wanted` is asked for: 0 not at all, more is better. The default variant counts as equal to
 * none. Of 32-bit arm and of amd64's levels, an older variant runs on a newer processor, never the other way round.
 */
export function platformScore(wanted: Platform, offered: Platform): number {
  if (wanted.os !== offered.os || wanted.architecture !== offered.architecture) return 0;
  const want = variantOf(wanted);
  const offer = variantOf(offered);
  if (want === offer) return 100;
  const level = (variant: string): number => Number(/^v(\d+)/.exec(variant)?.[1] ?? Number.NaN);
  const ordered = wanted.architecture === 'arm' || wanted.architecture === 'amd64';
  if (ordered && level(offer) < level(want)) return 50 + level(offer);
  return 0;
}
