import { ClipError } from '../bytes/index.js';
import { DoubtfulError, networkError } from './errors.js';
import type { ByteRange } from './source.js';
import type { Response } from './transport.js';
import { countWrongAnswer } from './wrong-answers.js';

/** A server without ranges sends the blob from its start. This much is skipped rather than given up on. */
export const MAX_SKIP_BYTES = 8 * 1024 * 1024;

export function checkRange({ start, end }: ByteRange, size: number | undefined): void {
  const limit = size ?? Number.MAX_SAFE_INTEGER;
  const last = end ?? limit;
  if (!Number.isSafeInteger(start) || !Number.isSafeInteger(last) || start < 0 || last < start || last > limit) {
    throw new RangeError(`bytes [${start}, ${end}) are not in a blob of ${size} bytes`);
  }
}

/** Bytes that are not the blob's would only fail its digest later: this says why. */
export function refuseEncoding(response: Response, what: string): void {
  const encoding = response.headers['content-encoding'];
  if (encoding === undefined || encoding === 'identity') return;
  response.body.cancel();
  countWrongAnswer(response.url.host, 'encoding');
  throw new ClipError(
    'UNSUPPORTED',
    `${response.url.host} sends ${what} with Content-Encoding ${encoding} although asked not to`,
    {
      hint: 'a proxy on the way compresses: have it leave /v2/ alone',
    },
  );
}

export function shortBody(response: Response, what: string, at: number, end: number): Error {
  return networkError(
    response.url,
    Object.assign(new Error(`${what} ended at byte ${at}, not ${end}`), { code: 'ECONNRESET' }),
  );
}

export function checkContentRange(
  response: Response,
  range: ByteRange,
  size: number | undefined,
  what: string,
): { skip: number; length: number } {
  const header = response.headers['content-range'] ?? '';
  const match = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(header.trim());
  const { host } = response.url;
  const asked = `bytes ${range.start}-${range.end === undefined ? '' : range.end - 1}`;
  if (match === null) {
    countWrongAnswer(host, 'range');
    throw new DoubtfulError(
      'UNSUPPORTED',
      `${host} answers 206 to ${asked} of ${what} with ${header === '' ? 'no Content-Range' : `Content-Range "${header.slice(0, 60)}"`}`,
    );
  }
  const [first, last] = [Number(match[1]), Number(match[2])];
  const total = match[3] === '*' ? size : Number(match[3]);
  if (size !== undefined && total !== size) {
    countWrongAnswer(host, 'length');
    throw new ClipError('DIGEST_MISMATCH', `${host} holds ${total} bytes of ${what}; the manifest says ${size}`);
  }
  if (first !== range.start || last < first || (range.end !== undefined && last >= range.end)) {
    countWrongAnswer(host, 'range');
    throw new DoubtfulError('NETWORK', `${host} answers ${asked} of ${what} with bytes ${first}-${last}`, {
      hint: 'a cache or proxy on the way mixes up ranges',
    });
  }
  return { skip: 0, length: last - first + 1 };
}

export function checkWhole(
  response: Response,
  range: ByteRange,
  size: number | undefined,
  what: string,
): { skip: number; length: number | null } {
  const stated = response.headers['content-length'];
  if (size !== undefined && stated !== undefined && Number(stated) !== size) {
    countWrongAnswer(response.url.host, 'length');
    throw new ClipError(
      'DIGEST_MISMATCH',
      `${response.url.host} sends ${stated} bytes of ${what}; the manifest says ${size}`,
    );
  }
  if (range.start > MAX_SKIP_BYTES) {
    throw new ClipError('UNSUPPORTED', `${response.url.host} ignores Range requests for ${what}`, {
      hint: 'this registry (or its storage, or a proxy) cannot serve parts of a blob, which lazy reading needs',
    });
  }
  return { skip: range.start, length: range.end === undefined ? null : range.end - range.start };
}
