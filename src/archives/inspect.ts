import type { Archive, ArchiveStorage, ImageMeta, LayerMeta } from '../archive/index.js';
import { ArchiveFile } from '../check/index.js';
import { ErofsReader } from '../erofs/index.js';
import { FilePaths } from './file-paths.js';

/** Files that a description names. */
const LARGEST = 10;

export interface SectionDescription {
  readonly name: string;
  readonly offset: number;
  readonly storedLength: number;
  readonly rawLength: number;
  readonly compression: string;
  readonly sha256: string;
}

export interface LayerInfo extends LayerMeta {
  /** "gzip", "zstd", …: how its spans are decoded. */
  readonly kind: string;
  readonly spans: number;
  /** Compressed bytes of its longest span. */
  readonly longestSpan: number;
  readonly windows: number;
  readonly windowBytes: number;
  readonly meanWindow: number;
  /** Files of the image that lie in it, empty ones aside, and their bytes. The rest of its tar is headers and what later layers hide. */
  readonly files: number;
  readonly fileBytes: number;
}

export interface ArchiveInfo {
  readonly path: string;
  /** Of the archive, in bytes. */
  readonly size: number;
  readonly version: number;
  /** Where its data is. */
  readonly storage: ArchiveStorage;
  /** Of an archive of version 1: layers whose spans are not known until it is mounted. */
  readonly unindexed: readonly string[];
  readonly identity: string;
  readonly reference: string;
  readonly registry: string;
  readonly repository: string;
  readonly manifestDigest: string;
  readonly platform: ImageMeta['platform'];
  /** Of the image: Env, Cmd, Entrypoint, … */
  readonly config: Readonly<Record<string, unknown>>;
  readonly inodes: number;
  /** The kernel's EROFS cannot show it: a file has pieces that the tree cannot describe. */
  readonly fusePlaneOnly: boolean;
  readonly hashes: boolean;
  readonly profile: { readonly source: string; readonly spans: number } | null;
  readonly sections: readonly SectionDescription[];
  readonly layers: readonly LayerInfo[];
  /** The largest files, ten at most. */
  readonly largest: readonly { readonly path: string; readonly size: number }[];
}

/** Opens and checks an archive and says what is in it. Nothing is fetched. @throws FormatError, ClipError NOT_FOUND, PERMISSION */
export function inspectArchive(archivePath: string): ArchiveInfo {
  const file = ArchiveFile.open(archivePath);
  try {
    return describeArchive(file.archive, file.path, file.size);
  } finally {
    file.close();
  }
}

export function describeArchive(archive: Archive, path: string, size: number): ArchiveInfo {
  const { image } = archive;
  const paths = FilePaths.of(archive);
  const held = paths.byLayer(image.layers.length);
  const layers = image.layers.map((meta, i) => {
    const { table } = archive.layers[i]!;
    let windowBytes = 0;
    let windows = 0;
    let longest = 0;
    for (let s = 0; s < table.count; s++) {
      windowBytes += table.windowLength[s]!;
      if (table.windowLength[s]! > 0) windows++;
      longest = Math.max(longest, Math.ceil((table.bitOffset[s + 1]! - table.bitOffset[s]!) / 8));
    }
    return {
      ...meta,
      kind: table.kind,
      spans: table.count,
      longestSpan: longest,
      windows,
      windowBytes,
      meanWindow: windows === 0 ? 0 : Math.round(windowBytes / windows),
      ...held[i]!,
    };
  });
  return {
    path,
    size,
    version: archive.version,
    storage: archive.storage,
    unindexed: archive.unindexed,
    identity: archive.identity,
    reference: image.reference,
    registry: image.registry,
    repository: image.repository,
    manifestDigest: image.manifestDigest,
    platform: image.platform,
    config: (image.config.config ?? {}) as Record<string, unknown>,
    inodes: new ErofsReader(archive.tree).inodeCount,
    fusePlaneOnly: archive.placement !== null,
    hashes: archive.sections.some((section) => section.name === 'hashes'),
    profile: archive.profile === null ? null : { source: archive.profile.source, spans: archive.profile.span.length },
    sections: archive.sections.map(({ name, offset, storedLength, rawLength, compression, sha256 }) => {
      return { name, offset, storedLength, rawLength, compression, sha256: Buffer.from(sha256).toString('hex') };
    }),
    layers,
    largest: paths.largest(LARGEST),
  };
}
