import { createPrivateKey, randomUUID, sign, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Certificates } from './certificates.js';

export interface TokenServer {
  readonly realm: string;
  readonly service: string;
  readonly issuer: string;
  /** The requests that it has received. */
  readonly requests: readonly {
    method: string;
    query: Record<string, string>;
    authorization: string | null;
    form: Record<string, string>;
  }[];
  /** Answer this status instead of a token, for the next `count` requests. */
  failNext(status: number, count?: number): void;
  /** Name the token "access_token" alone, as OAuth2 does. */
  useAccessToken: boolean;
  stop(): Promise<void>;
}

export interface TokenServerOptions {
  readonly login: { readonly username: string; readonly password: string };
  readonly seconds: number;
  readonly anonymousPull: boolean;
}

/** A refresh token that this server takes for {@link TokenServerOptions.login}. */
export const IDENTITY_TOKEN = 'identity-of-clip';

/** distribution, docs/spec/auth/token.md and oauth.md: GET with Basic, or POST with a refresh token, for a signed JWT. */
export async function startTokenServer(certificates: Certificates, options: TokenServerOptions): Promise<TokenServer> {
  const key = createPrivateKey(readFileSync(certificates.tokenKey));
  const x5c = [new X509Certificate(readFileSync(certificates.tokenCert)).raw.toString('base64')];
  const service = 'clip-test-registry';
  const issuer = 'clip-test-issuer';
  const basic = `Basic ${Buffer.from(`${options.login.username}:${options.login.password}`).toString('base64')}`;
  const requests: {
    method: string;
    query: Record<string, string>;
    authorization: string | null;
    form: Record<string, string>;
  }[] = [];
  let failures = { status: 0, count: 0 };

  const token = (subject: string, scopes: readonly string[]): string => {
    const access = scopes.map((scope) => {
      const [type, name, actions] = splitScope(scope);
      const allowed = subject === '' ? ['pull'] : ['pull', 'push', 'delete', '*'];
      return { type, name, actions: actions.split(',').filter((action) => allowed.includes(action)) };
    });
    const now = Math.floor(Date.now() / 1000);
    const claims = {
      iss: issuer,
      sub: subject,
      aud: service,
      exp: now + options.seconds,
      nbf: now - 5,
      iat: now,
      jti: randomUUID(),
      access,
    };
    const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
    const signed = `${encode({ typ: 'JWT', alg: 'ES256', x5c })}.${encode(claims)}`;
    return `${signed}.${sign('sha256', Buffer.from(signed), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`;
  };

  const handle: TokenServer = {
    realm: '',
    service,
    issuer,
    requests,
    failNext: (status, count = 1) => {
      failures = { status, count };
    },
    useAccessToken: false,
    stop: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };

  const server = createServer(async (request, response) => {
    const url = new URL(request.url!, 'http://localhost');
    const form = request.method === 'POST' ? new URLSearchParams(await readText(request)) : new URLSearchParams();
    const authorization = request.headers.authorization ?? null;
    requests.push({
      method: request.method!,
      query: Object.fromEntries(url.searchParams),
      authorization,
      form: Object.fromEntries(form),
    });
    const answer = (status: number, body: unknown): void => {
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    };
    if (failures.count > 0) {
      failures.count--;
      return answer(failures.status, { details: 'told to fail' });
    }
    const loggedIn = authorization === basic || form.get('refresh_token') === IDENTITY_TOKEN;
    const anonymous = authorization === null && request.method === 'GET' && options.anonymousPull;
    if (!loggedIn && !anonymous) return answer(401, { details: 'incorrect username or password' });
    const scopes = request.method === 'POST' ? (form.get('scope') ?? '').split(' ') : url.searchParams.getAll('scope');
    const jwt = token(
      loggedIn ? options.login.username : '',
      scopes.filter((scope) => scope !== ''),
    );
    const lifetime = { expires_in: options.seconds, issued_at: new Date().toISOString() };
    return answer(200, handle.useAccessToken ? { access_token: jwt, ...lifetime } : { token: jwt, ...lifetime });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return Object.assign(handle, { realm: `http://127.0.0.1:${(server.address() as AddressInfo).port}/token` });
}

/** "repository:name:pull,push"; the name may hold a colon (a port). */
function splitScope(scope: string): [string, string, string] {
  const first = scope.indexOf(':');
  const last = scope.lastIndexOf(':');
  return [scope.slice(0, first), scope.slice(first + 1, last), scope.slice(last + 1)];
}

async function readText(request: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of request) text += String(chunk);
  return text;
}
