import { ArchiveFile } from '../check/index.js';
import { ErofsReader, firstByte } from '../erofs/index.js';
import { type FileEntry, listFiles } from './files.js';

export interface DiffLayer {
  readonly digest: string;
  readonly size: number;
}

export interface DiffPath {
  readonly path: string;
  readonly type: FileEntry['type'];
  readonly size: number;
}

/** In what a path differs. `mtime` alone is no difference: every build of an image gives files new times. */
export type DiffField = 'type' | 'content' | 'size' | 'mode' | 'owner' | 'target' | 'device';

export interface ArchiveDiff {
  readonly layers: {
    readonly shared: readonly DiffLayer[];
    readonly added: readonly DiffLayer[];
    readonly removed: readonly DiffLayer[];
  };
  readonly added: readonly DiffPath[];
  readonly removed: readonly DiffPath[];
  readonly changed: readonly { readonly path: string; readonly what: readonly DiffField[] }[];
}

interface Side {
  readonly layers: readonly DiffLayer[];
  readonly files: ReadonlyMap<string, FileEntry>;
  /** Equal for files of equal content, as far as the archive tells. */
  content(file: FileEntry): { readonly hash: string | null; readonly place: string | null };
}

/**
 * What the image of the second archive has that the first has not, and so on. Files are equal if their hashes are (archives made with
 * --hashes), if they lie at the same place of the same layer, or else if size and mtime are equal, as rsync has it. Nothing is fetched.
 * @throws FormatError, ClipError NOT_FOUND, PERMISSION
 */
export function diffArchives(before: string, after: string): ArchiveDiff {
  const [a, b] = [sideOf(before), sideOf(after)];
  const had = new Set(a.layers.map(({ digest }) => digest));
  const has = new Set(b.layers.map(({ digest }) => digest));
  const changed: { path: string; what: DiffField[] }[] = [];
  for (const [path, file] of b.files) {
    const old = a.files.get(path);
    if (old === undefined) continue;
    const what = differences(a, old, b, file);
    if (what.length > 0) changed.push({ path, what });
  }
  return {
    layers: {
      shared: b.layers.filter(({ digest }) => had.has(digest)),
      added: b.layers.filter(({ digest }) => !had.has(digest)),
      removed: a.layers.filter(({ digest }) => !has.has(digest)),
    },
    added: only(b, a),
    removed: only(a, b),
    changed,
  };
}

function sideOf(archivePath: string): Side {
  const file = ArchiveFile.open(archivePath);
  try {
    const { archive } = file;
    const reader = new ErofsReader(archive.tree);
    const { placement } = archive;
    const { layers } = archive.image;
    const hashes = archive.hashes();
    const byNid = new Map<number, string>();
    for (let i = 0; i < (hashes?.count ?? 0); i++) {
      byNid.set(hashes!.nid[i]!, Buffer.from(hashes!.sha256.subarray(32 * i, 32 * i + 32)).toString('hex'));
    }
    return {
      layers: layers.map(({ digest, size }) => ({ digest, size })),
      files: new Map([...listFiles(archivePath, { recursive: true })].map((entry) => [entry.path, entry])),
      content: ({ nid, size }) => {
        const first = firstByte(reader, placement, nid, size);
        const place = first === null ? null : `${layers[first.layer]!.digest} ${first.layerOffset}`;
        return { hash: byNid.get(nid) ?? null, place };
      },
    };
  } finally {
    file.close();
  }
}

function only(side: Side, other: Side): DiffPath[] {
  return [...side.files.values()]
    .filter(({ path }) => !other.files.has(path))
    .map(({ path, type, size }) => ({ path, type, size }));
}

function differences(a: Side, old: FileEntry, b: Side, file: FileEntry): DiffField[] {
  if (old.type !== file.type) return ['type'];
  const what: DiffField[] = [];
  if (file.type === 'file') {
    if (old.size !== file.size) what.push('size');
    else if (file.size > 0 && !sameContent(a, old, b, file)) what.push('content');
  }
  if (old.mode !== file.mode) what.push('mode');
  if (old.uid !== file.uid || old.gid !== file.gid) what.push('owner');
  if (old.target !== file.target) what.push('target');
  if (old.rdev?.major !== file.rdev?.major || old.rdev?.minor !== file.rdev?.minor) what.push('device');
  return what;
}

function sameContent(a: Side, old: FileEntry, b: Side, file: FileEntry): boolean {
  const [was, is] = [a.content(old), b.content(file)];
  if (was.hash !== null && is.hash !== null) return was.hash === is.hash;
  if (was.place !== null && was.place === is.place) return true;
  return sameTime(old.mtime.getTime(), file.mtime.getTime());
}

/** Where one side has whole seconds only (a tar without pax headers, an archive of before 2024), the other's fraction says nothing. */
function sameTime(a: number, b: number): boolean {
  const whole = a % 1000 === 0 || b % 1000 === 0;
  return whole ? Math.floor(a / 1000) === Math.floor(b / 1000) : a === b;
}
