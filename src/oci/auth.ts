import { ClipError } from '../bytes/index.js';
import type { Reach } from './addresses.js';
import type { Credentials, RegistryCredentialProvider } from './credentials.js';
import { loginHint, networkError, readErrorBody, statusError } from './errors.js';
import { parseJsonObject } from './manifest.js';
import { raceAbort } from './race-abort.js';
import type { Response, Transport } from './transport.js';

/** distribution, docs/spec/auth/token.md: a token without expires_in lasts 60 s. */
const DEFAULT_TOKEN_SECONDS = 60;
/** A token is renewed this long before it ends, so that it does not end on the way. */
const RENEW_BEFORE_MS = 5_000;
/** Tokens are a few KiB; some clouds' are 30. */
const MAX_TOKEN_RESPONSE = 1024 * 1024;

export interface Challenge {
  /** Lower case: "bearer", "basic". */
  readonly scheme: string;
  readonly params: Readonly<Record<string, string>>;
}

/** Parses WWW-Authenticate (RFC 9110 §11.6.1): several challenges may stand in one header, separated by commas as their parameters are. */
export function parseChallenges(header: string): Challenge[] {
  const challenges: { scheme: string; params: Record<string, string> }[] = [];
  const token = /[!#$%&'*+.^_`|~0-9A-Za-z-]+/y;
  let at = 0;
  const skip = (pattern: RegExp): void => {
    pattern.lastIndex = at;
    if (pattern.test(header)) at = pattern.lastIndex;
  };
  while (at < header.length) {
    skip(/[\s,]+/y);
    token.lastIndex = at;
    const word = token.exec(header)?.[0];
    if (word === undefined) {
      at++; // what no grammar allows here is stepped over
      continue;
    }
    at += word.length;
    const value = /\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([!#$%&'*+.^_`|~0-9A-Za-z:/-]+))/y;
    value.lastIndex = at;
    const match = value.exec(header);
    const current = challenges.at(-1);
    if (match !== null && current !== undefined) {
      at = value.lastIndex;
      current.params[word.toLowerCase()] = match[1] !== undefined ? match[1].replace(/\\(.)/g, '$1') : match[2]!;
    } else {
      challenges.push({ scheme: word.toLowerCase(), params: {} });
    }
  }
  return challenges;
}

interface Token {
  readonly header: string;
  /** performance.now() time; Infinity for Basic and tokens without an end. */
  readonly renewAt: number;
}

/** Keeps the Authorization header for one repository. Learns the scheme from the first 401, then renews ahead of time. */
export class Authenticator {
  readonly #transport: Transport;
  readonly #registry: string;
  readonly #repository: string;
  readonly #provider: Credentials | RegistryCredentialProvider | null;
  /** What the provider gave; asked again only when that is refused. */
  #credentials: Credentials | null | undefined;
  #challenge: Challenge | null = null;
  /** Of the response that held the challenge. */
  #origin: URL | null = null;
  /** What a token server that this response names may be. */
  #reach: Reach = 'public';
  #token: Token | null = null;
  #renewing: Promise<Token> | null = null;
  /** Called for each token that is fetched. */
  readonly #onToken: () => void;
  /** What tokens are asked for: a challenge to a pull would not name push. */
  readonly #actions: 'pull' | 'pull,push';
  /** A further repository that tokens must allow to pull from. */
  readonly #alsoPull: string | undefined;
  /** What the last token is for. */
  #scope = '';

  constructor(
    transport: Transport,
    registry: string,
    repository: string,
    credentials: Credentials | RegistryCredentialProvider | null,
    onToken: () => void = () => {},
    actions: 'pull' | 'pull,push' = 'pull',
    alsoPull?: string,
  ) {
    this.#transport = transport;
    this.#registry = registry;
    this.#repository = repository;
    this.#provider = credentials;
    this.#onToken = onToken;
    this.#actions = actions;
    this.#alsoPull = alsoPull;
  }

  /** The header to send now, or null before any challenge. */
  async authorization(signal?: AbortSignal): Promise<string | null> {
    if (this.#challenge === null) return null;
    if (this.#token === null || performance.now() >= this.#token.renewAt) await this.#renew(signal);
    return this.#token?.header ?? null;
  }

  /**
   * A 401 came to a request sent with `used`. @returns false when there is nothing better to try.
   * @throws ClipError UNAUTHORIZED when the credentials themselves are refused
   */
  async challenged(
    response: Pick<Response, 'url' | 'headers'>,
    reach: Reach,
    used: string | null,
    signal?: AbortSignal,
  ): Promise<boolean> {
    if (this.#token !== null && this.#token.header !== used) return true; // renewed by another request meanwhile
    const challenges = parseChallenges(response.headers['www-authenticate'] ?? '');
    const challenge =
      challenges.find((c) => c.scheme === 'bearer' && c.params.realm !== undefined) ??
      challenges.find((c) => c.scheme === 'basic');
    if (challenge === undefined) return false;
    // A push wants more than the pull before it; the same again would be refused again.
    const more = challenge.params.scope !== undefined && challenge.params.scope !== this.#scope;
    if (used !== null && challenge.params.error === 'insufficient_scope' && !more) return false;
    // The same Basic password again will not do better; what the provider says now may.
    if (used !== null && challenge.scheme === 'basic' && !(await this.#askAgain())) return false;
    this.#challenge = challenge;
    this.#origin = response.url;
    this.#reach = reach;
    this.#token = null;
    await this.#renew(signal);
    return this.#token !== null;
  }

  async #ask(): Promise<Credentials | null> {
    const provider = this.#provider;
    if (provider === null || !('getCredentials' in provider)) return provider;
    return provider.getCredentials(this.#registry, this.#repository);
  }

  /** What was used has been refused: it may have expired, and a helper have fresh ones. @returns whether they are others */
  async #askAgain(): Promise<boolean> {
    const before = JSON.stringify(this.#credentials);
    this.#credentials = await this.#ask();
    return JSON.stringify(this.#credentials) !== before;
  }

  async #renew(signal?: AbortSignal): Promise<void> {
    this.#renewing ??= this.#fetch()
      .catch((error: unknown) => {
        // Without a login nothing would be sent any more: the next request goes as the first did, for the registry may
        // have changed its mind (a proxy in front of it that was misconfigured for a minute is enough).
        if (error instanceof ClipError && error.code === 'UNAUTHORIZED') {
          this.#challenge = null;
          this.#token = null;
        }
        throw error;
      })
      .finally(() => {
        this.#renewing = null;
      });
    // One caller's abort must not take the token from the others: the request itself is not tied to any signal.
    this.#token = await raceAbort(this.#renewing, signal);
  }

  async #fetch(): Promise<Token> {
    this.#credentials ??= await this.#ask();
    try {
      return await this.#fetchWith(this.#credentials);
    } catch (error) {
      const refused = error instanceof ClipError && error.code === 'UNAUTHORIZED';
      if (!refused || !(await this.#askAgain())) throw error;
      return this.#fetchWith(this.#credentials);
    }
  }

  async #fetchWith(credentials: Credentials | null): Promise<Token> {
    const challenge = this.#challenge!;
    if (challenge.scheme === 'basic') {
      const basic = basicHeader(credentials);
      if (basic === null) throw this.#loginNeeded('');
      return { header: basic, renewAt: Number.POSITIVE_INFINITY };
    }
    if (credentials?.registryToken !== undefined) {
      return { header: `Bearer ${credentials.registryToken}`, renewAt: Number.POSITIVE_INFINITY };
    }
    return this.#fetchToken(challenge, credentials);
  }

  #loginNeeded(words: string): ClipError {
    return new ClipError('UNAUTHORIZED', `${this.#registry} wants a login for ${this.#repository}${words}`, {
      hint: loginHint(this.#registry),
    });
  }

  async #fetchToken(challenge: Challenge, credentials: Credentials | null): Promise<Token> {
    const started = performance.now();
    const realm = this.#realm(challenge, credentials);
    const also = this.#alsoPull === undefined ? '' : ` repository:${this.#alsoPull}:pull`;
    const own = `repository:${this.#repository}:${this.#actions}${also}`;
    const scope = this.#actions === 'pull' ? (challenge.params.scope ?? own) : own;
    const service = challenge.params.service;
    this.#onToken();
    this.#scope = scope;

    let response: Response;
    try {
      if (credentials?.identityToken !== undefined) {
        const form = new URLSearchParams({
          grant_type: 'refresh_token',
          refresh_token: credentials.identityToken,
          client_id: 'clip',
          scope,
          ...(service !== undefined && { service }),
        });
        response = await this.#transport.send(realm, {
          reach: this.#reach,
          method: 'POST',
          headers: { 'content-type': 'application/x-www-form-urlencoded', accept: 'application/json' },
          body: form.toString(),
        });
      } else {
        const url = new URL(realm);
        if (service !== undefined) url.searchParams.set('service', service);
        for (const one of scope.split(' ')) url.searchParams.append('scope', one);
        if (credentials?.username !== undefined) url.searchParams.set('account', credentials.username);
        const basic = basicHeader(credentials);
        response = await this.#transport.send(url, {
          reach: this.#reach,
          headers: { accept: 'application/json', ...(basic !== null && { authorization: basic }) },
        });
      }
    } catch (error) {
      throw networkError(realm, error);
    }
    if (response.status !== 200) {
      const said = await readErrorBody(response, this.#registry.replace(/:\d+$/, ''));
      const words = said.text === '' ? '' : `: ${said.text}`;
      if (response.status === 401 || response.status === 403 || (response.status === 400 && credentials !== null)) {
        if (credentials === null) throw this.#loginNeeded(words);
        throw new ClipError('UNAUTHORIZED', `${realm.host} refuses the login for ${this.#registry}${words}`, {
          hint: `log in again: docker login ${this.#registry}`,
        });
      }
      throw statusError(response, `a token for ${this.#repository}`, said, this.#registry);
    }
    const bytes = await response.body.collect(MAX_TOKEN_RESPONSE).catch((error: unknown) => {
      throw networkError(realm, error);
    });
    const what = `the answer of the token server ${realm.host}`;
    if (bytes === null) throw new ClipError('LIMIT', `${what} is longer than ${MAX_TOKEN_RESPONSE} bytes`);
    const json = parseJsonObject(bytes, what);
    const token = json.token ?? json.access_token;
    if (typeof token !== 'string' || !/^[\x21-\x7e]+$/.test(token))
      throw new ClipError('BAD_FORMAT', `${what} holds no token`);
    const lifetime =
      typeof json.expires_in === 'number' && json.expires_in > 0 ? json.expires_in : DEFAULT_TOKEN_SECONDS;
    return {
      header: `Bearer ${token}`,
      renewAt: started + Math.max(lifetime * 1000 - RENEW_BEFORE_MS, lifetime * 500),
    };
  }

  /**
   * docs/security.md, "Logins": the host that sent the challenge could have asked for the login itself (Basic), so naming a token
   * server elsewhere gives it nothing more, as long as the login goes there over TLS. Without TLS everybody on the way could
   * read it: then only the challenging host itself gets it, which was itself asked without TLS.
   */
  #isOwnHost(realm: URL): boolean {
    return this.#origin?.protocol === 'http:' && this.#origin.hostname === realm.hostname;
  }

  #realm(challenge: Challenge, credentials: Credentials | null): URL {
    const text = challenge.params.realm ?? '';
    let realm: URL;
    try {
      realm = new URL(text, this.#origin ?? undefined);
    } catch {
      throw new ClipError('BAD_FORMAT', `${this.#registry} names no usable token server: "${text.slice(0, 100)}"`);
    }
    if (realm.protocol !== 'https:' && realm.protocol !== 'http:') {
      throw new ClipError('BAD_FORMAT', `${this.#registry} names a token server that is not HTTP: ${realm.protocol}`);
    }
    if (credentials !== null && realm.protocol === 'http:' && !this.#isOwnHost(realm)) {
      throw new ClipError('UNAUTHORIZED', `${this.#registry} wants the login sent to ${realm.host} without TLS`, {
        hint: 'the registry is misconfigured: its token realm must be an https URL',
      });
    }
    return realm;
  }
}

function basicHeader(credentials: Credentials | null): string | null {
  if (credentials?.username === undefined || credentials.password === undefined) return null;
  return `Basic ${Buffer.from(`${credentials.username}:${credentials.password}`).toString('base64')}`;
}
