import type { ErofsStats } from './writer.js';

/** One line for each kind of entry that the tree leaves out or that the kernel cannot serve. Most images have none. */
export function treeWarnings(stats: ErofsStats): string[] {
  const lines: string[] = [];
  const say = (count: number, thing: string, things: string, text: string): void => {
    if (count > 0) lines.push(`${count} ${count === 1 ? thing : things} ${text}`);
  };
  const overlay = "of overlayfs's own (trusted.overlay.*, user.overlay.*)";
  say(stats.overlayXattrs, 'xattr', 'xattrs', `${overlay} left out`);
  say(
    stats.whiteoutDevices,
    'character device 0:0',
    'character devices 0:0',
    'left out: an overlayfs would take it for a whiteout',
  );
  say(stats.droppedXattrs, 'xattr', 'xattrs', 'left out: namespace unknown to Linux, or too long for EROFS');
  say(
    stats.namelessEntries,
    'tar entry',
    'tar entries',
    'without a name (empty, "." or "/") left out, as container runtimes do',
  );
  say(
    stats.placedFiles,
    'sparse file',
    'sparse files',
    "with a layout that the kernel's EROFS driver cannot read: mounts serve it by FUSE",
  );
  return lines;
}
