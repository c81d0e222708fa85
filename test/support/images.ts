import { spawnSync } from 'node:child_process';
import { gzipSync } from 'node:zlib';
import { LayoutBuilder, MEDIA, sha256 } from './layout.js';

export type Compression = 'gzip' | 'zstd' | 'none';

const LAYER_TYPES: Readonly<Record<Compression, string>> = {
  gzip: MEDIA.ociLayer,
  zstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
  none: 'application/vnd.oci.image.layer.v1.tar',
};

export function compressLayer(layer: Uint8Array, compression: Compression): Uint8Array {
  if (compression === 'none') return layer;
  if (compression === 'gzip') return gzipSync(layer);
  const made = spawnSync('zstd', ['-c', '-q'], { input: layer, maxBuffer: 1 << 30 });
  if (made.status !== 0) throw new Error(`zstd: ${made.stderr}`);
  return made.stdout;
}

export interface TestImage {
  /** "oci:DIR:latest". */
  readonly reference: string;
  readonly layout: LayoutBuilder;
  remove(): void;
}

/** An OCI image layout of these tars, base first; the compression is one for all, or one a layer. */
export function writeImage(
  layers: readonly Uint8Array[],
  options: {
    compression?: Compression | readonly Compression[];
    config?: Record<string, unknown>;
    architecture?: string;
  } = {},
): TestImage {
  const layout = new LayoutBuilder();
  const { compression = 'gzip' } = options;
  const descriptors = layers.map((layer, i) => {
    const how = typeof compression === 'string' ? compression : compression[i]!;
    return layout.blob(compressLayer(layer, how), LAYER_TYPES[how]);
  });
  const architecture = options.architecture ?? (process.arch === 'x64' ? 'amd64' : process.arch);
  const rootfs = { type: 'layers', diff_ids: layers.map((layer) => sha256(layer)) };
  const config = layout.json({ os: 'linux', architecture, config: options.config ?? {}, rootfs }, MEDIA.ociConfig);
  const reference = layout.tag(layout.manifest(config, descriptors), 'latest');
  return { reference, layout, remove: () => layout.remove() };
}
