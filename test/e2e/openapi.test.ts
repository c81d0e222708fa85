import { readFileSync } from 'node:fs';
import { request } from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { parse } from 'yaml';
import { API } from '../../src/wire/index.js';
import { Clipctl } from '../support/clipctl.js';
import { writeImage } from '../support/images.js';
import { file, tar } from '../support/tar.js';

// docs/openapi.yaml against a running clipd: its paths and methods, each answer field by field, and each field of each request.

interface Schema {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly required?: readonly string[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: boolean | Schema;
  readonly items?: Schema;
  readonly pattern?: string;
}
interface Body {
  readonly content: { readonly 'application/json': { readonly schema: Schema } };
}
interface Operation {
  readonly requestBody?: { readonly $ref: string };
  readonly responses: Readonly<Record<string, { readonly $ref: string }>>;
}

const text = readFileSync(fileURLToPath(new URL('../../../docs/openapi.yaml', import.meta.url)), 'utf8');
const document = parse(text, { merge: true }) as { paths: Record<string, Record<string, Operation>> };

function resolve<T>(reference: string): T {
  let at: unknown = document;
  for (const part of reference.replace(/^#\//, '').split('/')) at = (at as Record<string, unknown>)[part];
  if (at === undefined) throw new Error(`docs/openapi.yaml has no ${reference}`);
  return at as T;
}
const deref = (schema: Schema): Schema => (schema.$ref === undefined ? schema : deref(resolve(schema.$ref)));

function typeOf(value: unknown): readonly string[] {
  if (value === null) return ['null'];
  if (Array.isArray(value)) return ['array'];
  if (Number.isInteger(value)) return ['integer', 'number'];
  return [typeof value];
}

/** Where `value` is not as the schema says. A field that the schema does not have is one of those places. */
function faults(given: Schema, value: unknown, where: string): string[] {
  const schema = deref(given);
  const types = schema.type === undefined ? null : [schema.type].flat();
  if (types !== null && !typeOf(value).some((type) => types.includes(type))) return [`${where}: ${typeOf(value)[0]}`];
  if ('const' in schema && value !== schema.const) return [`${where}: not ${schema.const}`];
  if (schema.enum !== undefined && !schema.enum.includes(value)) return [`${where}: ${value}`];
  if (schema.pattern !== undefined && !new RegExp(schema.pattern).test(String(value))) return [`${where}: ${value}`];
  if (Array.isArray(value)) return value.flatMap((item, i) => faults(schema.items!, item, `${where}[${i}]`));
  if (typeof value !== 'object' || value === null) return [];
  const missing = (schema.required ?? []).filter((name) => !(name in value)).map((name) => `${where}.${name}: missing`);
  return missing.concat(
    Object.entries(value).flatMap(([name, field]) => {
      const known = schema.properties?.[name];
      if (known !== undefined) return faults(known, field, `${where}.${name}`);
      const { additionalProperties = false } = schema;
      if (typeof additionalProperties === 'object') return faults(additionalProperties, field, `${where}.${name}`);
      return additionalProperties ? [] : [`${where}.${name}: not described`];
    }),
  );
}

let clip: Clipctl;
let mountPoint: string;

interface Reply {
  readonly status: number;
  readonly allow: string;
  readonly value: unknown;
}
/** As docs/api.md asks of clients: a request whose connection broke, because the server was replaced, is repeated. */
async function ask(method: string, url: string, body?: unknown): Promise<Reply> {
  for (let left = 100; ; left--) {
    try {
      return await askOnce(method, url, body);
    } catch (error) {
      if (left === 0 || !['EPIPE', 'ECONNRESET'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

function askOnce(method: string, url: string, body: unknown): Promise<Reply> {
  return new Promise((done, reject) => {
    const outgoing = request(
      { socketPath: path.join(clip.directory, 'root/clipd.sock'), method, path: url },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const value: unknown = JSON.parse(Buffer.concat(chunks).toString());
          done({ status: response.statusCode!, allow: response.headers.allow ?? '', value });
        });
      },
    );
    outgoing.on('error', reject);
    outgoing.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

const answered = new Set<string>();

/** Asks, and compares the answer with the document. */
async function check<T = unknown>(method: 'get' | 'post', url: string, body?: unknown): Promise<T> {
  const name = url.replace(/\?.*/, '');
  const { status, value } = await ask(method.toUpperCase(), url, body);
  const response = resolve<Body>(document.paths[name]![method]!.responses['200']!.$ref);
  expect({ status, value, faults: faults(response.content['application/json'].schema, value, 'answer') }).toEqual({
    status: 200,
    value,
    faults: [],
  });
  answered.add(`${method} ${name}`);
  return value as T;
}

beforeAll(async () => {
  const image = writeImage([tar(file('hello', 'x'.repeat(100_000)))]);
  clip = await Clipctl.create();
  mountPoint = await clip.place('mnt');
  await clip.ok('index', '--image', image.reference, '--out', clip.path('a.clip'));
  await clip.ok('mount', '--clip', clip.path('a.clip'), '--at', mountPoint);
  readFileSync(path.join(mountPoint, 'hello'));
  image.remove();
});
afterAll(() => clip?.close());

it('has the paths of the API, with their methods', async () => {
  expect(Object.keys(document.paths).sort()).toEqual(Object.values(API).sort());
  for (const [name, methods] of Object.entries(document.paths)) {
    const { status, allow } = await ask('PUT', name);
    expect({ name, status, allow }).toEqual({
      name,
      status: 405,
      allow: Object.keys(methods)
        .map((method) => method.toUpperCase())
        .sort()
        .join(', '),
    });
  }
});

it('has every field of every request, and no other', async () => {
  for (const [name, { post }] of Object.entries(document.paths)) {
    if (post === undefined) continue;
    const schema = deref(resolve<Body>(post.requestBody!.$ref).content['application/json'].schema);
    const { required = [], properties = {} } = schema;
    const whole: Record<string, unknown> = {};
    for (const field of required) {
      const { enum: values, type } = deref(properties[field]!);
      whole[field] = values?.[0] ?? (type === 'number' ? 1 : '/nonexistent');
    }
    const refused = async (body: unknown): Promise<string> => {
      const { status, value } = await ask('POST', name, body);
      const error = deref({ $ref: '#/components/schemas/Error' });
      expect({ name, body, status, faults: faults(error, value, 'answer') }).toEqual({
        name,
        body,
        status: 400,
        faults: [],
      });
      return (value as { error: { message: string } }).error.message;
    };
    expect(await refused({ ...whole, unknown: 1 })).toContain('body.unknown must be absent');
    for (const field of required) {
      expect(await refused({ ...whole, [field]: undefined })).toContain(`body.${field} must be`);
    }
    for (const field of Object.keys(properties)) {
      const message = await refused({ ...whole, [field]: null });
      expect(message).toContain(`body.${field} must be`);
      expect(message).not.toContain('must be absent,');
    }
  }
});

it('describes every answer', async () => {
  const query = `?mountPoint=${encodeURIComponent(mountPoint)}`;
  await check('get', API.health);
  const { mounts } = await check<{ mounts: Record<string, unknown>[] }>('get', API.mounts);
  const { mountNamespace } = await check<{ mountNamespace: string }>('get', API.health);
  const second = await clip.place('second');
  const archivePath = mounts[0]!.archivePath;
  await check('post', API.mounts, { archivePath, mountPoint: second, mountNamespace, requestId: 'r', options: {} });
  await check('post', API.unmount, { mountPoint: second, mode: 'normal' });
  await check('get', `${API.wait}?mountPoint=${encodeURIComponent(second)}`);
  await check('post', API.prefetch, { mountPoint, paths: ['/hello'] });
  await check('get', `${API.prefetch}${query}`);
  await check('post', API.prefetchCancel, { mountPoint });
  await check('post', API.firstExec, { mountPoint, milliseconds: 12.5 });
  await check('post', API.firstExec, { mountPoint, milliseconds: 20, event: 'output', at: Date.now() });
  await check('post', API.profileStop, { mountPoint });
  await check('get', API.stats);
  await check('get', API.metrics);
  await check('get', `${API.journey}${query}`);
  await check('post', API.logLevel, { level: 'debug' });
  // Its lines are looked at where they come from reads: seeing.test.ts.
  answered.add(`get ${API.trace}`);
  await check('get', API.cache);
  await check('get', API.cacheLayers);
  await check('post', API.cacheVerify, {});
  await check('post', API.cachePrune, { to: 0 });
  const serverModule = fileURLToPath(new URL('../../src/server/server-main.js', import.meta.url));
  await check('post', API.upgrade, { serverModule });
  await check('post', API.stop, { onlyIfIdle: true });
  const described = Object.entries(document.paths).flatMap(([name, methods]) =>
    Object.keys(methods).map((method) => `${method} ${name}`),
  );
  expect([...answered].sort()).toEqual(described.sort());
});
