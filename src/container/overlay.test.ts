import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { unmount } from '../linux/index.js';
import { mountFuseOverlay, mountKernelOverlay } from './overlay.js';

const ODD = 'a, b:c\\d=e \u00e9\'"';

test.runIf(process.getuid?.() === 0).each([
  ['the kernel', mountKernelOverlay],
  ['fuse-overlayfs', (layers: Parameters<typeof mountKernelOverlay>[0]) => mountFuseOverlay(layers, null)],
] as const)('paths with commas, colons, backslashes and spaces: %s', (name, mount) => {
  const base = mkdtempSync(join(tmpdir(), 'clip-overlay-'));
  const odd = join(base, name === 'the kernel' ? ODD : ODD.replace(':', ''));
  const layers = { lower: join(odd, 'l'), upper: join(odd, 'u'), work: join(odd, 'w'), target: join(odd, 'm') };
  mkdirSync(odd);
  for (const path of Object.values(layers)) mkdirSync(path);
  const colon = { ...layers, lower: join(odd, 'l:') };
  if (name !== 'the kernel') expect(() => mount(colon)).toThrow(/takes the colon in/);
  writeFileSync(join(layers.lower, 'from-image'), 'image');
  try {
    mount(layers);
    try {
      writeFileSync(join(layers.target, 'written'), 'new');
      expect(readFileSync(join(layers.target, 'from-image'), 'utf8')).toBe('image');
      expect(readdirSync(layers.upper)).toEqual(['written']);
    } finally {
      unmount(layers.target);
    }
  } finally {
    rmSync(base, { recursive: true, force: true });
  }
});

test.runIf(process.getuid?.() === 0)('an upper directory on an overlay is refused with the remedy', () => {
  const base = mkdtempSync(join(tmpdir(), 'clip-overlay-'));
  const make = (name: string): string => {
    mkdirSync(join(base, name), { recursive: true });
    return join(base, name);
  };
  const below = { lower: make('l'), upper: make('u'), work: make('w'), target: make('m') };
  mountKernelOverlay(below);
  try {
    const on = { lower: make('l'), upper: make('m/u'), work: make('m/w'), target: make('m2') };
    expect(() => mountKernelOverlay(on)).toThrow(/cannot be the writable layer/);
  } finally {
    unmount(below.target);
    rmSync(base, { recursive: true, force: true });
  }
});
