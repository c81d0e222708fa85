import { createHash } from 'node:crypto';
import { ClipError } from '../bytes/index.js';
import { malformed } from './errors.js';

/** OCI image-spec, descriptor.md "Digests": the two registered algorithms and their exact lengths in hex. */
const HEX_LENGTH: Readonly<Record<string, number>> = { sha256: 64, sha512: 128 };

/** True for "sha256:<64 lower-case hex>" and "sha512:<128>". Whatever passes is also safe inside a path or a URL. */
export function isDigest(text: string): boolean {
  const match = /^([a-z0-9]+):([0-9a-f]+)$/.exec(text);
  return match !== null && HEX_LENGTH[match[1]!] === match[2]!.length;
}

/** @throws ClipError BAD_FORMAT that names `where` unless `value` is a digest. */
export function expectDigest(value: unknown, where: string): string {
  if (typeof value === 'string' && isDigest(value)) return value;
  throw malformed(`${where} is not a digest: ${JSON.stringify(value)?.slice(0, 100) ?? 'missing'}`);
}

export function digestOf(bytes: Uint8Array, algorithm = 'sha256'): string {
  return `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}`;
}

/**
 * @throws ClipError DIGEST_MISMATCH when `bytes` are not what `digest` names. The digest of the bytes is not in the error: they
 * may be of a file or a server that the caller cannot see, and a digest of few bytes tells what they are.
 */
export function verifyDigest(bytes: Uint8Array, digest: string, what: string): void {
  if (digestOf(bytes, digest.slice(0, digest.indexOf(':'))) === digest) return;
  throw new ClipError('DIGEST_MISMATCH', `${what}: the content does not have the digest ${digest}`, {
    hint: 'the registry or a proxy altered it: try again, then ask the operator of the registry',
  });
}
