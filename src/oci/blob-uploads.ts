import { ClipError } from '../bytes/index.js';
import { digestOf } from './digest.js';
import { aborted, TransientError } from './errors.js';
import { raceAbort } from './race-abort.js';
import type { Attempt } from './registry-hosts.js';
import type { RepositoryRequests } from './repository-requests.js';
import type { OnBytes } from './source.js';

/** The config of artifacts that have none. */
const EMPTY = Buffer.from('{}');
/** Its descriptor. */
export const EMPTY_CONFIG = {
  mediaType: 'application/vnd.oci.empty.v1+json',
  digest: digestOf(EMPTY),
  size: EMPTY.length,
} as const;
/** For registries and proxies that take no larger bodies. */
const CHUNK_BYTES = 4 * 1024 * 1024;
const UPLOAD_TRIES = 5;
/** What docker-registry says of a manifest while another client stores a blob that the manifest refers to, too. */
export const DIGEST_INVALID = ['DIGEST_INVALID'];

/** Blobs of artifacts on their way to a repository (distribution-spec v1.1, "Pushing blobs"). */
export class BlobUploads {
  readonly #requests: RepositoryRequests;
  /** While the empty config is stored, and after that. */
  #empty: Promise<void> | null = null;

  constructor(requests: RepositoryRequests) {
    this.#requests = requests;
  }

  /**
   * Stores the config of artifacts that have none, once, and only where it is missing: with each upload of a blob, docker-registry
   * empties the file that links the blob and writes it again, and in between it refuses every manifest that refers to the blob.
   */
  async storeEmpty(signal?: AbortSignal): Promise<void> {
    this.#empty ??= this.#uploadEmpty().catch((error: unknown) => {
      this.#empty = null;
      throw error;
    });
    await raceAbort(this.#empty, signal).catch((error: unknown) => {
      throw signal?.aborted ? aborted('the upload of an empty config', signal.reason) : error;
    });
  }

  async #uploadEmpty(): Promise<void> {
    const { digest } = EMPTY_CONFIG;
    const what = `blob ${digest} of ${this.#requests.repository}`;
    const request = { what, method: 'HEAD', headers: { 'accept-encoding': 'identity' }, accept: [200, 404] } as const;
    const response = await this.#requests.ask(`${this.#requests.repository}/blobs/${digest}`, request);
    response.body.cancel();
    if (response.status === 404) await this.upload(EMPTY, digest);
  }

  /**
   * A blob in one PUT; if the registry refuses the size, in chunks. An upload that breaks is begun anew with the first byte: the
   * registry may still be writing what came of the first one, so its answer about the length would be out of date.
   * The request that begins an upload also finds out whether the blob is there, or takes it over from another repository.
   */
  async upload(
    bytes: Uint8Array,
    digest: string,
    signal?: AbortSignal,
    from?: string,
    onProgress?: OnBytes,
  ): Promise<void> {
    const what = `the upload of ${digest} to ${this.#requests.repository}`;
    const backoff = this.#requests.hosts.backoff();
    const onSent = onProgress && ((sent: number) => onProgress(sent, bytes.length));
    let chunked = false;
    for (let tries = 1; ; ) {
      try {
        const place = await this.#beginUpload(digest, what, from, signal);
        if (place === null) return;
        const end = chunked ? await this.#sendChunks(place, bytes, what, signal, onSent) : place;
        end.searchParams.set('digest', digest);
        const response = await this.#requests.send(end.href, {
          what,
          method: 'PUT',
          headers: { 'content-type': 'application/octet-stream' },
          body: chunked ? new Uint8Array(0) : bytes,
          onSent: chunked ? undefined : onSent,
          accept: [201, 413],
          passing: DIGEST_INVALID,
          signal,
        });
        response.body.cancel();
        if (response.status === 201) return;
        if (chunked)
          throw new ClipError(
            'LIMIT',
            `${end.host} refuses ${what}: even pieces of ${CHUNK_BYTES} bytes are too large`,
          );
        chunked = true;
      } catch (error) {
        if (!(error instanceof TransientError) || tries++ === UPLOAD_TRIES) throw error;
        await backoff.next(error, what, signal);
      }
    }
  }

  /** @returns where to send the bytes; null when the repository has the blob now */
  async #beginUpload(
    digest: string,
    what: string,
    from: string = this.#requests.repository,
    signal?: AbortSignal,
  ): Promise<URL | null> {
    const query = new URLSearchParams({ mount: digest, from });
    const response = await this.#requests.ask(`${this.#requests.repository}/blobs/uploads/?${query}`, {
      what,
      method: 'POST',
      headers: { 'content-length': '0' },
      accept: [201, 202],
      signal,
    });
    response.body.cancel();
    return response.status === 201 ? null : placeOf(response, what);
  }

  /** @returns where to end the upload */
  async #sendChunks(
    begin: URL,
    bytes: Uint8Array,
    what: string,
    signal?: AbortSignal,
    onSent?: (sent: number) => void,
  ): Promise<URL> {
    let place = begin;
    for (let sent = 0; sent < bytes.length; sent += CHUNK_BYTES) {
      const body = bytes.subarray(sent, sent + CHUNK_BYTES);
      const range = `${sent}-${sent + body.length - 1}`;
      const headers = { 'content-type': 'application/octet-stream', 'content-range': range };
      const response = await this.#requests.send(place.href, {
        what,
        method: 'PATCH',
        headers,
        body,
        accept: [202],
        signal,
      });
      response.body.cancel();
      place = placeOf(response, what, place);
      onSent?.(sent + body.length);
    }
    return place;
  }
}

/** Where an upload goes on. */
function placeOf({ url, headers }: Attempt['response'], what: string, before?: URL): URL {
  if (headers.location !== undefined) return new URL(headers.location, url);
  if (before !== undefined) return before;
  throw new ClipError('NETWORK', `${url.host} begins ${what} without a Location`);
}
