import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Server } from 'node:http';
import type { AddressInfo, Server as TcpServer } from 'node:net';
import { expect } from 'vitest';
import { ClipError } from '../../src/bytes/index.js';
import { type BlobOptions, type ImageSource, openImageSource, type SourceOptions } from '../../src/oci/index.js';
import { LayoutBuilder } from './layout.js';

/** Opens sources as tests want them (anonymous, quick to try again) and closes them all. */
export class Sources {
  readonly #open: ImageSource[] = [];

  open(reference: string, options: SourceOptions = {}): ImageSource {
    return this.keep(
      openImageSource(reference, { credentials: null, retry: { baseMs: 1, maxMs: 5 }, proxy: {}, ...options }),
    );
  }

  keep(source: ImageSource): ImageSource {
    this.#open.push(source);
    return source;
  }

  async close(): Promise<void> {
    await Promise.all(this.#open.splice(0).map((source) => source.close()));
  }
}

export async function collect(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Bytes [start, end) of a blob. */
export async function fetchRange(
  source: ImageSource,
  digest: string,
  start: number,
  end: number,
  options: BlobOptions = {},
): Promise<Buffer> {
  return collect(await source.fetchBlob(digest, { start, end }, options));
}

/** The error, which must be one a user may see: a ClipError of one line. */
export async function failure(promise: Promise<unknown>): Promise<ClipError> {
  const error = await promise.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(ClipError);
  expect((error as ClipError).message).not.toContain('\n');
  return error as ClipError;
}

/** @returns "http://127.0.0.1:PORT" */
export function listen(server: Server | TcpServer): Promise<string> {
  return new Promise((resolve) =>
    server.listen(0, '127.0.0.1', () => resolve(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)),
  );
}

/** A layout with the tags "big" (three layers, the first of 3 MiB of noise), "multi" (three platforms and an attestation), "docker". */
export function imagesLayout(): { layout: LayoutBuilder; image: { digest: string; blob: Buffer } } {
  const layout = new LayoutBuilder();
  const big = layout.image([randomBytes(3 << 20), 'second', 'third'], { config: { Env: ['A=b'] } });
  const manifest = JSON.parse(readFileSync(layout.blobPath(big.digest), 'utf8')) as { layers: { digest: string }[] };
  const { digest } = manifest.layers[0]!;
  layout.tag(big, 'big');
  const on = (architecture: string, variant?: string) => ({
    ...layout.image([`for ${architecture}`], { architecture }),
    platform: { os: 'linux', architecture, ...(variant !== undefined && { variant }) },
  });
  const attestation = { ...layout.image(['provenance']), platform: { os: 'unknown', architecture: 'unknown' } };
  layout.tag(layout.index([attestation, on('amd64'), on('arm64', 'v8'), on('arm', 'v7')]), 'multi');
  layout.tag(layout.image(['docker']), 'docker');
  return { layout, image: { digest, blob: readFileSync(layout.blobPath(digest)) } };
}
