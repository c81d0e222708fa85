/** What ends a response's head (RFC 9112 §2.1). */
export const HEAD_END = Buffer.from('\r\n\r\n');

/** The head of an HTTP/1 response that direct-get.ts reads. */
export class ResponseHead {
  readonly status: number;
  readonly #fields: readonly (readonly [string, string])[];

  /** @param text without the blank line. Text that is no HTTP/1 response has status 0. */
  constructor(text: string) {
    const [first = '', ...lines] = text.split('\r\n');
    this.status = Number(/^HTTP\/1\.[01] (\d{3})( |$)/.exec(first)?.[1] ?? 0);
    this.#fields = lines.map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    });
    this.keepsAlive = first.startsWith('HTTP/1.1') && !/\bclose\b/i.test(this.values('connection').join());
  }

  /** The connection may be used again after this response. */
  readonly keepsAlive: boolean;

  /** Of all fields of that name, which is in lower case. */
  values(name: string): string[] {
    return this.#fields.filter(([field]) => field === name).map(([, value]) => value);
  }

  /** Exactly `length` bytes follow, neither encoded nor in chunks. */
  isPlain(length: number): boolean {
    return this.plainLength === length;
  }

  /** How many bytes follow, neither encoded nor in chunks. Null: that is not certain. */
  get plainLength(): number | null {
    if (this.values('transfer-encoding').length > 0) return null;
    if (this.values('content-encoding').some((value) => value !== 'identity')) return null;
    const lengths = this.values('content-length');
    return lengths.length === 1 && /^(0|[1-9]\d{0,14})$/.test(lengths[0]!) ? Number(lengths[0]) : null;
  }
}

/** A GET request's head. Null when a field cannot be sent as it is. */
export function requestHead(url: URL, fields: Readonly<Record<string, string>>): string | null {
  const all = Object.entries({ host: url.host, ...fields });
  if (all.some(([, value]) => /[\r\n]/.test(value))) return null;
  return `GET ${url.pathname}${url.search} HTTP/1.1\r\n${all.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`;
}
