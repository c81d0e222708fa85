import type { S3Location } from '../archive/index.js';
import { AbortError, ClipError, type ErrorCode } from '../bytes/index.js';

/** "s3://bucket/key", and the server where it is not Amazon's. */
export function s3Name({ bucket, key, endpoint }: Pick<S3Location, 'bucket' | 'key' | 'endpoint'>): string {
  return `s3://${bucket}/${key}${endpoint === '' ? '' : ` at ${endpoint}`}`;
}

const HINTS: Readonly<Partial<Record<ErrorCode, string>>> = {
  NOT_FOUND:
    'check bucket, key and server: --s3-endpoint names another server, --s3-bucket and --s3-key other data of an archive',
  UNAUTHORIZED:
    'check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for data in S3, and to push, also --creds KEY_ID:SECRET',
  NETWORK: 'check the endpoint and that it can be reached: --s3-endpoint overrides it',
};

/** Of the answer that an error of the SDK is about. */
export function statusOf(error: unknown): number | undefined {
  return (error as { $metadata?: { httpStatusCode?: number } } | null)?.$metadata?.httpStatusCode;
}

/** What a failure of the SDK means, in one line with the object's name. */
export function s3Error(error: unknown, what: string, signal?: AbortSignal | undefined): ClipError {
  if (error instanceof ClipError) return error;
  const { name = 'Error', message = String(error), code } = error as { name?: string; message?: string; code?: string };
  if (signal?.aborted) return new AbortError(what, signal);
  const status = statusOf(error);
  const kind: ErrorCode =
    status === 404
      ? 'NOT_FOUND'
      : status === 401 || status === 403 || name === 'CredentialsProviderError'
        ? 'UNAUTHORIZED'
        : 'NETWORK';
  const said = status === undefined ? (code ?? (message || name)) : `${status} ${name}`;
  return new ClipError(kind, `${what}: ${said}`, { cause: error, hint: HINTS[kind] });
}
