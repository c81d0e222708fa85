import type { S3Location } from '../archive/index.js';
import { ClipError, type ErrorCode } from '../bytes/index.js';

/** "s3://bucket/key", and the server where it is not Amazon's. */
export function s3Name({ bucket, key, endpoint }: Pick<S3Location, 'bucket' | 'key' | 'endpoint'>): string {
  return `s3://${bucket}/${key}${endpoint === '' ? '' : ` at ${endpoint}`}`;
}

const HINTS: Readonly<Partial<Record<ErrorCode, string>>> = {
  NOT_FOUND: 'check bucket, key and endpoint: --s3-bucket, --s3-key and --s3-endpoint override them',
  UNAUTHORIZED: 'check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give --creds KEY_ID:SECRET',
  NETWORK: 'check the endpoint and that it can be reached: --s3-endpoint overrides it',
};

/** What a failure of the SDK means, in one line with the object's name. */
export function s3Error(error: unknown, what: string, signal?: AbortSignal | undefined): ClipError {
  if (error instanceof ClipError) return error;
  const {
    name = 'Error',
    message = String(error),
    $metadata,
    code,
  } = error as {
    name?: string;
    message?: string;
    code?: string;
    $metadata?: { httpStatusCode?: number };
  };
  if (signal?.aborted) return new ClipError('ABORTED', `${what}: given up`, { cause: error });
  const status = $metadata?.httpStatusCode;
  const kind: ErrorCode =
    status === 404
      ? 'NOT_FOUND'
      : status === 401 || status === 403 || name === 'CredentialsProviderError'
        ? 'UNAUTHORIZED'
        : 'NETWORK';
  const said = status === undefined ? (code ?? (message || name)) : `${status} ${name}`;
  return new ClipError(kind, `${what}: ${said}`, { cause: error, hint: HINTS[kind] });
}
