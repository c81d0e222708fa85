import { createRequire } from 'node:module';
import type { Readable, Transform } from 'node:stream';
import type { S3Client, S3ClientConfig } from '@aws-sdk/client-s3';
import type { S3Location } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import { checkLiteral, guardedLookup } from '../oci/index.js';

export interface S3Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string | undefined;
}

export interface S3ClientOptions {
  readonly region?: string | undefined;
  /** For servers other than Amazon's. */
  readonly endpoint?: string | undefined;
  /** The bucket's name in the path. Default: for every endpoint that is named. */
  readonly forcePathStyle?: boolean | undefined;
  /** null: unsigned requests. Default: the SDK's chain (environment, profile, instance role). */
  readonly credentials?: S3Credentials | null | undefined;
}

/** Peers of the package, and optional: most users have no data in S3, and the SDK is twice as large as all the rest. */
const SDK = '@aws-sdk/client-s3';
const UPLOADS = '@aws-sdk/lib-storage';

/** @throws ClipError UNSUPPORTED when the SDK is not installed. It is not loaded: that takes 150 ms. */
export function requireS3Sdk(): void {
  const { resolve } = createRequire(import.meta.url);
  try {
    for (const name of [SDK, UPLOADS]) resolve(name);
  } catch (cause) {
    throw missingSdk(cause);
  }
}

function missingSdk(cause: unknown): ClipError {
  return new ClipError('UNSUPPORTED', 'S3 needs a library that is not installed', {
    cause,
    hint: `npm install ${SDK} ${UPLOADS}, with -g where clipfs is installed with -g`,
  });
}

/**
 * Until 2027 the SDK says on stderr, with every start, which Node version its later releases will want. That is for the developer
 * who updates it here, not for the user of clip: engines in package.json says what clip runs on.
 */
export async function s3Sdk(): Promise<typeof import('@aws-sdk/client-s3')> {
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= 'true';
  requireS3Sdk();
  return import('@aws-sdk/client-s3');
}

/** Uploads in parts. */
export async function s3Uploads(): Promise<typeof import('@aws-sdk/lib-storage')> {
  requireS3Sdk();
  return import('@aws-sdk/lib-storage');
}

/** S3's errors are XML of some hundred bytes. */
const MAX_ERROR_BYTES = 64 * 1024;

/**
 * Everywhere but link-local addresses, where clouds keep a machine's credentials: an archive may name its own endpoint
 * (docs/security.md, "Data in S3").
 */
const REACH = 'loopback';
const RULE = 'the data of an archive may not lie at';

/** The SDK is loaded by the first client: it takes 150 ms. @throws ClipError NETWORK for an endpoint at a link-local address */
export async function newS3Client(options: S3ClientOptions): Promise<S3Client> {
  const { region, credentials, forcePathStyle } = options;
  const endpoint = options.endpoint || environmentEndpoint();
  if (endpoint && URL.canParse(endpoint)) checkLiteral(new URL(endpoint).hostname, REACH, RULE);
  const [{ S3Client }, { Transform }, http, https] = await Promise.all([
    s3Sdk(),
    import('node:stream'),
    import('node:http'),
    import('node:https'),
  ]);
  const connections = { keepAlive: true, lookup: guardedLookup(REACH, RULE) };
  const config: S3ClientConfig = {
    region: region || process.env.AWS_REGION || process.env.AWS_DEFAULT_REGION || profileRegion,
    maxAttempts: 3,
    requestHandler: { httpAgent: new http.Agent(connections), httpsAgent: new https.Agent(connections) },
    // What is read is checked by clip itself. Other servers need not know the SDK's own checksums, nor the way it sends them.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    ...(endpoint ? { endpoint, forcePathStyle: forcePathStyle !== false || isAddress(endpoint) } : {}),
    ...(endpoint === undefined && forcePathStyle === true ? { forcePathStyle } : {}),
    ...(credentials
      ? { credentials: { ...credentials, sessionToken: credentials.sessionToken || undefined } as never }
      : {}),
    ...(credentials === null ? { signer: { sign: async (request) => request } } : {}),
  };
  const client = new S3Client(config);
  // The SDK reads an error's body as a whole. Content is bounded where it is read.
  client.middlewareStack.add(
    (next) => async (args) => {
      const result = await next(args);
      const response = result.response as { statusCode: number; body: Readable };
      if (response.statusCode >= 300) response.body = bounded(Transform, response.body);
      return result;
    },
    { step: 'deserialize', priority: 'low', name: 'boundErrorBodies' },
  );
  return client;
}

/** A stream of at most MAX_ERROR_BYTES: beyond them it fails, and with it the connection. */
function bounded(Stream: typeof Transform, body: Readable): Readable {
  let length = 0;
  const limited = new Stream({
    transform(chunk: Buffer, _, done) {
      length += chunk.length;
      if (length <= MAX_ERROR_BYTES) return done(null, chunk);
      body.destroy();
      done(new Error(`an error of more than ${MAX_ERROR_BYTES} bytes`));
    },
  });
  body.on('error', (error) => limited.destroy(error));
  return body.pipe(limited);
}

/** As the AWS CLI and the SDKs take it. */
function environmentEndpoint(): string | undefined {
  return process.env.AWS_ENDPOINT_URL_S3 || process.env.AWS_ENDPOINT_URL || undefined;
}

/** The region of the user's profile; servers other than Amazon's take any. */
async function profileRegion(): Promise<string> {
  const { S3Client } = await s3Sdk();
  const plain = new S3Client({});
  return plain.config.region().catch(() => 'us-east-1');
}

/** A bucket's name cannot be put in front of an IP address. */
function isAddress(endpoint: string): boolean {
  try {
    const { hostname } = new URL(endpoint);
    return hostname === 'localhost' || /^[\d.]+$/.test(hostname) || hostname.startsWith('[');
  } catch {
    return false;
  }
}

export function clientOptions(location: S3Location, credentials: S3Credentials | null | undefined): S3ClientOptions {
  const { region, endpoint, forcePathStyle } = location;
  return { region, endpoint: endpoint === '' ? undefined : endpoint, forcePathStyle, credentials };
}

/** From the environment, as the SDK would find them: for a process that has another environment. */
export function environmentS3Credentials(env: NodeJS.ProcessEnv = process.env): S3Credentials | undefined {
  const { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey, AWS_SESSION_TOKEN: token } = env;
  if (!accessKeyId || !secretAccessKey) return undefined;
  return { accessKeyId, secretAccessKey, ...(token ? { sessionToken: token } : {}) };
}
