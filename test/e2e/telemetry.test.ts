import { existsSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Clipctl, PROGRAM, runProgram } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { eventually } from '../support/mounted.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { file, tar } from '../support/tar.js';

// OpenTelemetry spans as a collector gets them: the exporter is the real one, the collector an HTTP server. Needs root and /dev/fuse.

interface Span {
  readonly name: string;
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
  readonly attributes: readonly { readonly key: string; readonly value: Record<string, unknown> }[];
  readonly status?: { readonly code?: number; readonly message?: string };
}
interface Export {
  readonly resourceSpans: readonly {
    readonly resource: { readonly attributes: Span['attributes'] };
    readonly scopeSpans: readonly { readonly spans: readonly Span[] }[];
  }[];
}

let registry: TestRegistry;
let clip: Clipctl;
let collector: Server;
const bodies: string[] = [];

const exported = (): Export[] => bodies.map((body) => JSON.parse(body) as Export);
const spans = (): Span[] =>
  exported().flatMap(({ resourceSpans }) =>
    resourceSpans.flatMap((one) => one.scopeSpans.flatMap((scope) => scope.spans)),
  );
const attribute = (span: Span, key: string): unknown =>
  Object.values(span.attributes.find((one) => one.key === key)?.value ?? {})[0];

beforeAll(async () => {
  registry = await startRegistry();
  const image = writeImage([tar(file('data', layerLike(3_000_000, 1)))]);
  await registry.push(image.reference, 'app:one');
  image.remove();
  collector = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      if (request.url === '/v1/traces') bodies.push(Buffer.concat(chunks).toString());
      response.setHeader('content-type', 'application/json').end('{}');
    });
  });
  await new Promise<void>((resolve) => collector.listen(0, '127.0.0.1', resolve));
  const { port } = collector.address() as { port: number };
  clip = await Clipctl.create({
    env: { OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`, OTEL_BSP_SCHEDULE_DELAY: '100' },
  });
}, 60_000);
afterAll(async () => {
  await clip?.close();
  collector?.close();
  await registry?.stop();
});

test('an index, a mount, its fetches and its inflations are spans, with times and attributes', async () => {
  const archive = clip.path('app.clip');
  await clip.ok('index', '--image', `${registry.host}/app:one`, '--out', archive);
  // The command that indexed has waited for its collector.
  const [index] = spans();
  expect(index).toMatchObject({ name: 'clip index' });
  expect(attribute(index!, 'clip.reference')).toBe(`${registry.host}/app:one`);
  expect(Number(index!.endTimeUnixNano)).toBeGreaterThan(Number(index!.startTimeUnixNano));
  expect(Math.abs(Number(index!.endTimeUnixNano) / 1e6 - Date.now())).toBeLessThan(60_000);

  const place = await clip.place('mnt');
  await clip.ok('mount', '--clip', archive, '--at', place);
  await readFile(join(place, 'data'));
  await eventually(() =>
    ['mount', 'fetch', 'inflate'].every((name) => spans().some((one) => one.name === `clip ${name}`)),
  );
  const named = (name: string): Span => spans().find((one) => one.name === `clip ${name}`)!;
  expect(attribute(named('mount'), 'clip.mountPoint')).toBe(place);
  expect(attribute(named('fetch'), 'clip.source')).toBe('registry');
  expect(Number(attribute(named('fetch'), 'clip.bytes'))).toBeGreaterThan(0);
  expect(Number(attribute(named('inflate'), 'clip.bytes'))).toBeGreaterThan(100_000);
  const services = exported().flatMap(({ resourceSpans }) =>
    resourceSpans.map(({ resource }) => resource.attributes.find(({ key }) => key === 'service.name')?.value),
  );
  expect(services).toContainEqual({ stringValue: 'clip' });
}, 60_000);

test('a failed index is a span with its error and without secrets', async () => {
  const before = bodies.length;
  const args = [
    'index',
    '--image',
    `${registry.host}/app:nine`,
    '--out',
    clip.path('nine.clip'),
    '--creds',
    'u:c4n4ry',
  ];
  expect((await clip.run(args)).code).not.toBe(0);
  await eventually(() => bodies.length > before);
  const failed = spans().find(({ status }) => status?.code === 2);
  expect(failed).toMatchObject({ name: 'clip index', status: { message: expect.stringContaining('app:nine') } });
  expect(bodies.join()).not.toContain('c4n4ry');
});

test('a collector that is away costs no more than a moment; without the libraries a line says what to install', async () => {
  const env = { ...clip.env, OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:1' };
  const args = [PROGRAM, 'index', '--image', `${registry.host}/app:one`, '--out', clip.path('away.clip')];
  const away = await runProgram(process.execPath, args, { env });
  expect([away.code, away.stderr]).toEqual([0, expect.stringMatching(/spans for OpenTelemetry cannot be sent: .+/)]);
  const own = await Clipctl.create({
    env: { OTEL_EXPORTER_OTLP_ENDPOINT: env.OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_BSP_SCHEDULE_DELAY: '100' },
  });
  try {
    const place = await own.place('mnt');
    await own.ok('mount', clip.path('away.clip'), place);
    // The exporter tries again for ten seconds before it gives up.
    const log = own.path('root', 'clipd.log');
    const told = (): boolean => existsSync(log) && readFileSync(log, 'utf8').includes('spans for OpenTelemetry');
    await eventually(told, 60_000).finally(() => own.run(['umount', place]));
  } finally {
    await own.close();
  }

  // A loader that does not find them, as in an installation without its peers.
  const hook = clip.path('hide.cjs');
  const hide = `const Module = require('node:module'); const resolve = Module._resolveFilename;
    Module._resolveFilename = function (name, ...rest) {
      if (name.startsWith('@opentelemetry/')) throw Object.assign(new Error('hidden'), { code: 'MODULE_NOT_FOUND' });
      return resolve.call(this, name, ...rest);
    };`;
  (await import('node:fs')).writeFileSync(hook, hide);
  const ran = await runProgram(process.execPath, ['--require', hook, ...args], { env });
  expect(ran.code).toBe(0);
  expect(ran.stderr).toContain('the libraries of OpenTelemetry are not installed');
  expect(ran.stderr).toContain('npm install @opentelemetry/api @opentelemetry/sdk-trace-base');
  expect(readFileSync(clip.path('away.clip')).length).toBeGreaterThan(0);
}, 120_000);
