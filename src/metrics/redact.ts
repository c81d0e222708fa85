/** What stands in a log in place of a secret. */
const REDACTED = '…';

/** Fields whose value is a secret whatever it looks like. */
const SECRET_FIELD =
  /("(?:[\w-]*(?:password|passwd|passphrase|secret|token|credential|authorization|cookie|signature|api-?key|private-?key)[\w-]*|creds|auth)"\s*:\s*)(?:"(?:[^"\\]|\\.)*"|\[[^\]]*\]|\{[^{}]*\})/gi;

/** The login of a URL: scheme://user:password@host. In JSON a quotation mark or a space ends a URL. */
const URL_LOGIN = /([a-z][a-z0-9+.-]*:\/\/)[^\s"'\\/?#@]+@/gi;

/** Parameters of a URL that admit to what it names: signatures, tokens, keys. */
const URL_PARAMETER =
  /([?&](?:[\w.-]*(?:signature|token|secret|password|credential|api-?key|access-?key|policy)[\w.-]*|sig|se|auth)=)[^&\s"'\\]+/gi;

/** Logins in headers, as text: RFC 9110 §11.4. */
const HEADER_LOGIN = /\b((?:bearer|basic|negotiate|digest|aws4-hmac-sha256)\s+)[\w+/=.~:%-]{6,}/gi;

/** PEM keys. */
const PRIVATE_KEY = /-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/gs;

/**
 * A line of a log, or any other text, without secrets. It is applied to whole lines as they are written, so that no caller can forget
 * it; what it cannot know is a secret in a field of an innocent name that looks like nothing.
 */
export function redact(text: string): string {
  return text
    .replaceAll(PRIVATE_KEY, REDACTED)
    .replaceAll(SECRET_FIELD, `$1"${REDACTED}"`)
    .replaceAll(URL_LOGIN, `$1${REDACTED}@`)
    .replaceAll(URL_PARAMETER, `$1${REDACTED}`)
    .replaceAll(HEADER_LOGIN, `$1${REDACTED}`);
}
