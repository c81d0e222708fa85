import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { compareTrees } from '../support/compare.js';
import { buildErofs, kernelPlane, overlayTree, umociTree } from '../support/planes.js';
import { CASES } from './tree-cases.js';

/** The differences, as sorted "path: field", without the values (some are the current time). */
function summary(lines: readonly string[]): string[] {
  return lines
    .map((line) => line.replace(/: a \w+ that is not expected$/, ': extra').replace(/^(.*?): (\w+).*$/s, '$1: $2'))
    .sort();
}

/**
 * umoci and GNU tar apply the entry of the root itself, so they are no oracles for its attributes: containerd, moby and
 * containers/storage skip that entry. foreign-tars.test.ts has the rule.
 */
function withoutRoot(lines: readonly string[]): string[] {
  return lines.filter((line) => !/^\.: (mode|uid|gid|mtime|xattrs) /.test(line));
}

/** overlayfs counts links of directories as 1, and of a copied-up file by its layer. */
function withoutDirectoryLinks(lines: readonly string[]): string[] {
  return lines.filter((line) => !/: nlink \d+ ≠ 1$/.test(line));
}

describe('the kernel, with our EROFS image and the layers, shows the same tree as other unpackers', () => {
  test.each(CASES)('$name', ({ layers, umoci, overlay }) => {
    const ours = kernelPlane(layers);
    if (umoci?.differs === 'refuses') expect(() => umociTree(layers)).toThrow(/^umoci: /);
    else {
      const lines = withoutRoot(compareTrees(ours, umociTree(layers)));
      expect(summary(lines), lines.join('\n')).toEqual([...(umoci?.differs ?? [])].sort());
    }
    if (overlay.differs === 'skip') return;
    const lines = withoutRoot(withoutDirectoryLinks(compareTrees(ours, overlayTree(layers))));
    expect(summary(lines), lines.join('\n')).toEqual([...overlay.differs].sort());
  });

  // fsck.erofs 1.5 knows only blocks of its page size: the same writer, the same directories and inodes, in blocks of 4096.
  test.each(CASES)('fsck.erofs finds nothing: $name', ({ layers }) => {
    const directory = mkdtempSync(join(tmpdir(), 'clip-fsck-'));
    try {
      const primary = join(directory, 'tree.erofs');
      writeFileSync(primary, buildErofs(layers, { blockSize: 4096 }).image);
      const devices = layers.map((layer, i) => {
        writeFileSync(join(directory, `${i}`), layer);
        return `--device=${join(directory, `${i}`)}`;
      });
      const ran = spawnSync('fsck.erofs', ['-d2', ...devices, primary], { encoding: 'utf8' });
      expect(ran.status, ran.stdout + ran.stderr).toBe(0);
      expect(ran.stdout + ran.stderr).not.toMatch(/<[EW]>/);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });
});
