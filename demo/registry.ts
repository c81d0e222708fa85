import { createReadStream, existsSync, readFileSync, statSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';

export interface LayoutRegistry {
  /** "127.0.0.1:PORT" */
  readonly host: string;
  /** Body bytes of blobs sent so far. */
  readonly bytesServed: number;
  /** Requests for blobs so far. */
  readonly blobRequests: number;
  /** Sets both counts to 0. */
  resetCounts(): void;
  close(): Promise<void>;
}

interface Entry {
  readonly mediaType: string;
  readonly digest: string;
  readonly annotations?: Record<string, string>;
}

const DIGEST = /^sha256:[0-9a-f]{64}$/;

/**
 * Serves an OCI image layout as a read-only registry (distribution-spec, pull) on a free loopback port, under any repository
 * name, with the layout's tags. For the demo: no outside registry is needed.
 */
export async function serveLayout(directory: string): Promise<LayoutRegistry> {
  const index = JSON.parse(readFileSync(join(directory, 'index.json'), 'utf8')) as { manifests: Entry[] };
  const counts = { bytes: 0, requests: 0 };
  const blobPath = (digest: string): string => join(directory, 'blobs', digest.replace(':', '/'));

  const fail = (response: ServerResponse, status: number, code: string): void => {
    const body = JSON.stringify({ errors: [{ code, message: code.toLowerCase().replaceAll('_', ' ') }] });
    response
      .writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) })
      .end(body);
  };

  const manifest = (request: IncomingMessage, response: ServerResponse, name: string): void => {
    const entry = index.manifests.find((m) => m.annotations?.['org.opencontainers.image.ref.name'] === name);
    const digest = DIGEST.test(name) ? name : entry?.digest;
    if (digest === undefined || !existsSync(blobPath(digest))) {
      fail(response, 404, 'MANIFEST_UNKNOWN');
      return;
    }
    const body = readFileSync(blobPath(digest));
    const { mediaType } = JSON.parse(body.toString()) as { mediaType?: string };
    response.writeHead(200, {
      'content-type': mediaType ?? entry?.mediaType ?? 'application/vnd.oci.image.manifest.v1+json',
      'content-length': body.length,
      'docker-content-digest': digest,
    });
    response.end(request.method === 'HEAD' ? undefined : body);
  };

  const blob = (request: IncomingMessage, response: ServerResponse, digest: string): void => {
    if (!DIGEST.test(digest) || !existsSync(blobPath(digest))) {
      fail(response, 404, 'BLOB_UNKNOWN');
      return;
    }
    const { size } = statSync(blobPath(digest));
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
    const start = range === null ? 0 : Number(range[1]);
    const end = range === null || range[2] === '' ? size : Math.min(size, Number(range[2]) + 1);
    const common = {
      'content-type': 'application/octet-stream',
      'accept-ranges': 'bytes',
      'docker-content-digest': digest,
    };
    if (start >= end && size > 0) {
      response.writeHead(416, { 'content-range': `bytes */${size}`, 'content-length': 0 }).end();
      return;
    }
    const partial = range === null ? {} : { 'content-range': `bytes ${start}-${end - 1}/${size}` };
    response.writeHead(range === null ? 200 : 206, { ...common, ...partial, 'content-length': end - start });
    if (request.method === 'HEAD' || size === 0) {
      response.end();
      return;
    }
    counts.requests++;
    const file = createReadStream(blobPath(digest), { start, end: end - 1, highWaterMark: 256 * 1024 });
    file.on('data', (chunk) => {
      counts.bytes += chunk.length;
    });
    file.on('error', () => response.destroy());
    response.on('close', () => file.destroy());
    file.pipe(response);
  };

  const server = createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
    response.setHeader('docker-distribution-api-version', 'registry/2.0');
    const path = decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname);
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      fail(response, 405, 'UNSUPPORTED');
      return;
    }
    if (path === '/v2/' || path === '/v2') {
      response.writeHead(200, { 'content-type': 'application/json', 'content-length': 2 }).end('{}');
      return;
    }
    const match = /^\/v2\/[a-z0-9/._-]+\/(manifests|blobs)\/([^/]+)$/.exec(path);
    if (match === null) fail(response, 404, 'NAME_UNKNOWN');
    else if (match[1] === 'manifests') manifest(request, response, match[2]!);
    else blob(request, response, match[2]!);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  return {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    get bytesServed() {
      return counts.bytes;
    },
    get blobRequests() {
      return counts.requests;
    },
    resetCounts: () => {
      counts.bytes = 0;
      counts.requests = 0;
    },
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
