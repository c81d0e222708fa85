import type { ErofsStats } from './writer.js';

/** One line for each kind of thing that the tree leaves out or that the kernel cannot serve. Most images have none. */
export function treeWarnings(stats: ErofsStats): string[] {
  const lines: string[] = [];
  const say = (count: number, text: string): void => {
    if (count > 0) lines.push(`${count} ${text}`);
  };
  say(stats.overlayXattrs, "xattrs of overlayfs's own (trusted.overlay.*, user.overlay.*) are left out");
  say(stats.whiteoutDevices, 'character devices 0:0 are left out: an overlayfs would take them for whiteouts');
  say(stats.droppedXattrs, 'xattrs are left out: their namespace is unknown to Linux, or they are too long for EROFS');
  say(stats.namelessEntries, 'tar entries without a name (empty, "." or "/") are left out, as container runtimes do');
  say(
    stats.placedFiles,
    "sparse files have a layout that the kernel's EROFS driver cannot read: mounts serve them by FUSE",
  );
  return lines;
}
