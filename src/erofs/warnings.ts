import type { ErofsStats } from './writer.js';

/** What the tree leaves out or the kernel cannot serve, a line each; none for most images. */
export function treeWarnings(stats: ErofsStats): string[] {
  const lines: string[] = [];
  const say = (count: number, text: string): void => {
    if (count > 0) lines.push(`${count} ${text}`);
  };
  say(stats.overlayXattrs, "xattrs of overlayfs's own (trusted.overlay.*, user.overlay.*) are left out");
  say(stats.whiteoutDevices, 'character devices 0:0 are left out: an overlayfs would take them for whiteouts');
  say(stats.droppedXattrs, 'xattrs are left out: their namespace is unknown to Linux, or they are too long for EROFS');
  say(stats.placedFiles, 'sparse files have data that EROFS cannot place: only the FUSE plane can serve this image');
  return lines;
}
