import { ClipError, type ErrorCode } from '../bytes/index.js';
import type { Response } from './transport.js';

/** Of an error page, the bytes that are read for its message. */
const MAX_ERROR_BODY = 64 * 1024;
const MAX_ERROR_TEXT = 300;

/** A failure that the same request may not meet again; retried with back-off, then thrown as it is. */
export class TransientError extends ClipError {
  /** From Retry-After. */
  readonly retryAfterMs: number | null;

  constructor(message: string, options: { hint?: string | undefined; cause?: unknown; retryAfterMs?: number | null }) {
    super('NETWORK', message, options);
    this.retryAfterMs = options.retryAfterMs ?? null;
  }
}

/**
 * A refusal, or an answer to another question. From a server that has given the same kind of thing before, it may be a hiccup of
 * a proxy on the way, and is tried again a few times; from one that has not, it is the answer.
 */
export class DoubtfulError extends ClipError {}

/** Manifests, indexes and configs that no client could use. */
export function malformed(message: string, cause?: unknown): ClipError {
  return new ClipError('BAD_FORMAT', message, { cause, hint: 'the image is malformed: push it again (skopeo copy)' });
}

/** No connection was made, and none has been before. A caller that knows that the registry exists may wait for it. */
class UnreachableError extends ClipError {
  constructor(message: string, options: { hint?: string | undefined; cause?: unknown }) {
    super('NETWORK', message, options);
  }
}

/** Whether the same request may succeed later, with the same image and the same logins. */
export function mayPass(error: unknown): boolean {
  return error instanceof TransientError || error instanceof UnreachableError;
}

function codeOf(error: unknown): string {
  if (error instanceof AggregateError) {
    for (const inner of error.errors) if (codeOf(inner) !== '') return codeOf(inner);
  }
  if (typeof error !== 'object' || error === null) return '';
  const { code, cause } = error as { code?: unknown; cause?: unknown };
  return typeof code === 'string' ? code : cause === undefined ? '' : codeOf(cause);
}

/** No connection was made. Worth another try only where there has been one before: most often it is a wrong address. */
const UNREACHABLE = new Set(['ECONNREFUSED', 'ETIMEDOUT', 'ENETUNREACH', 'EHOSTUNREACH', 'ENOTFOUND']);

/** Failures of a connection that a new one may not have. */
const TRANSIENT = new Set([
  'ECONNRESET',
  'EPIPE',
  'EAI_AGAIN',
  'CLIP_HEAD_TIMEOUT',
  'CLIP_BODY_TIMEOUT',
  'HPE_INVALID_EOF_STATE',
]);

export function aborted(what: string, cause: unknown): ClipError {
  if (cause instanceof ClipError) return cause;
  return new ClipError('ABORTED', `${what} was interrupted`, { cause });
}

function isCertificateCode(code: string): boolean {
  return (
    /^(CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO_|ERR_TLS_CERT|HOSTNAME_MISMATCH|INVALID_CA|PATH_LENGTH)/.test(code) ||
    code === 'INVALID_PURPOSE'
  );
}

/** The error of a request to `url`, with the cause and the next step. */
export function networkError(url: URL, error: unknown, reachedBefore = true): ClipError {
  if (error instanceof ClipError) return error;
  const code = codeOf(error);
  const detail = (error instanceof Error ? error.message : String(error)).split('\n')[0]!.slice(0, MAX_ERROR_TEXT);
  const fail = (message: string, hint?: string): ClipError => {
    const options = { hint, cause: error };
    if (TRANSIENT.has(code) || (reachedBefore && UNREACHABLE.has(code))) return new TransientError(message, options);
    if (UNREACHABLE.has(code)) return new UnreachableError(message, options);
    return new ClipError('NETWORK', message, options);
  };
  if (code === 'ECONNREFUSED') {
    return fail(`${url.host} refuses connections`, 'check the host and port, and that the registry is running');
  }
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') {
    return fail(`the name ${url.hostname} cannot be resolved (${code})`, 'check the spelling of the registry, and DNS');
  }
  if (code === 'ETIMEDOUT') {
    return fail(
      `${url.host} does not answer (timed out while connecting)`,
      'check the network, and HTTPS_PROXY if there is one',
    );
  }
  if (code === 'CLIP_HEAD_TIMEOUT' || code === 'CLIP_BODY_TIMEOUT') {
    return fail(
      `${url.host} stopped answering (${url.pathname})`,
      'try again; the registry or the network is overloaded',
    );
  }
  if (isCertificateCode(code)) {
    return fail(
      `the TLS certificate of ${url.host} is not trusted: ${detail}`,
      `put the registry's CA into /etc/docker/certs.d/${url.host}/ca.crt or SSL_CERT_FILE`,
    );
  }
  if (code === 'EPROTO' || code.startsWith('ERR_SSL_')) {
    return fail(
      `no TLS connection to ${url.host}: ${/:([^:]+):[^:]*$/.exec(detail)?.[1]?.trim() || code}`,
      'if it is a plain HTTP registry, add --plain-http',
    );
  }
  if (code.startsWith('HPE_') || (error instanceof Error && error.name === 'HTTPParserError'))
    return fail(
      `${url.host} does not speak HTTP (${detail})`,
      'check the port; if it speaks TLS, leave --plain-http out',
    );
  if (code === 'CLIP_PROXY')
    return fail(`the proxy for ${url.host} failed: ${detail}`, 'check HTTPS_PROXY, HTTP_PROXY and NO_PROXY');
  return fail(
    `the connection to ${url.host} failed: ${code === '' || detail.includes(code) ? detail : `${detail} (${code})`}`,
    'try again; if it fails again, ask the operator of the registry, or of a proxy on the way',
  );
}

/**
 * The registry's own text and code (distribution-spec "Error Codes"), on one line and free of control characters. A host that is not
 * public is quoted only if it is the one that was asked: another one, to which that one led, may be out of its author's reach
 * (docs/security.md, "What errors say").
 */
export async function readErrorBody(
  response: Response,
  asked: string | undefined,
): Promise<{ code: string; text: string }> {
  let bytes: Uint8Array | null = null;
  try {
    bytes = await response.body.collect(MAX_ERROR_BODY);
  } catch {
    // The status alone has to do.
  }
  if (bytes === null) return { code: '', text: '' };
  const quoted = response.locality === 'public' || response.url.hostname === asked;
  try {
    const json: unknown = JSON.parse(Buffer.from(bytes).toString());
    const first = (json as { errors?: { code?: unknown; message?: unknown }[] } | null)?.errors?.[0];
    const details = (json as { details?: unknown; message?: unknown } | null) ?? {};
    const text = first?.message ?? first?.code ?? details.details ?? details.message;
    return {
      code: typeof first?.code === 'string' ? first.code : '',
      text: quoted && typeof text === 'string' ? oneLine(text) : '',
    };
  } catch {
    return { code: '', text: '' };
  }
}

function oneLine(text: string): string {
  return text
    .replace(/[\p{Cc}\p{Cf}\s]+/gu, ' ')
    .trim()
    .slice(0, MAX_ERROR_TEXT);
}

export function loginHint(registry: string): string {
  return `log in with: docker login ${registry} (or check the name: private and missing look alike)`;
}

/** A response that is a failure. `what` names the thing asked for. */
export function statusError(
  response: Response,
  what: string,
  said: { code: string; text: string },
  registry: string,
  loggedIn = false,
): ClipError {
  const { status, url } = response;
  const words = said.text === '' ? '' : `: ${said.text}`;
  const make = (code: ErrorCode, message: string, hint?: string): ClipError => new ClipError(code, message, { hint });
  if (status === 401) {
    const message = loggedIn
      ? `${registry} refuses the login for ${what}${words}`
      : `${registry} wants a login for ${what}${words}`;
    return new DoubtfulError('UNAUTHORIZED', message, { hint: loginHint(registry) });
  }
  if (status === 403) {
    return new DoubtfulError('UNAUTHORIZED', `${registry} denies access to ${what}${words}`, {
      hint: `check the name, and that the login for ${registry} may pull it`,
    });
  }
  if (status === 404) {
    return make(
      'NOT_FOUND',
      `${registry} has no ${what}${words}`,
      `check the name, and that ${registry} is the registry it is in`,
    );
  }
  const retryAfterMs = parseRetryAfter(response.headers['retry-after']);
  if (status === 429) {
    return new TransientError(`${registry} limits the rate of requests (429 for ${what})${words}`, {
      hint: 'wait, or log in for a higher limit',
      retryAfterMs,
    });
  }
  if (status === 407) {
    return make(
      'UNAUTHORIZED',
      `the proxy for ${url.host} wants a login (407)`,
      'put it into HTTP_PROXY: http://USER:PASSWORD@HOST',
    );
  }
  if (status === 416) {
    return make(
      'DIGEST_MISMATCH',
      `${url.host} holds less of ${what} than the manifest says (416)`,
      'the blob in the registry is truncated: push it again',
    );
  }
  if (status >= 300 && status < 400)
    return make('NETWORK', `${url.host} redirects ${what} in a way clip cannot follow (${status})`);
  const message = `${url.host} answered ${status} to the request for ${what}${words}`;
  if (status === 400 && url.protocol === 'http:') {
    return make('NETWORK', message, 'if the registry speaks TLS on this port, leave --plain-http out');
  }
  if (status < 500 && status !== 408) return make('NETWORK', message, 'is this a registry? check host and port');
  return new TransientError(message, { hint: 'the registry is in trouble: try again later', retryAfterMs });
}

/** Seconds or a date (RFC 9110 §10.2.3). */
function parseRetryAfter(value: string | undefined): number | null {
  if (value === undefined) return null;
  if (/^\d+$/.test(value.trim())) return Number(value) * 1000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? null : Math.max(0, date - Date.now());
}
