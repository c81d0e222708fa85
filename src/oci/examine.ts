import { lookup } from 'node:dns/promises';
import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { ClipError, counted } from '../bytes/index.js';
import { CredentialOrder } from './credential-order.js';
import { hostName, hostsFor } from './hosts.js';
import { bareHost, portOf } from './network.js';
import { openArtifacts, openImageSource, type SourceOptions } from './open.js';
import { formatPlatform, type Platform } from './platform.js';
import { isLoopback, speaksTls } from './probe.js';
import { proxyFor } from './proxy.js';
import { apiHost, parseReference, type Reference, type RegistryReference } from './reference.js';
import type { ResolvedImage } from './resolve.js';
import { settingsFromEnvironment } from './settings.js';
import { secureContextFor } from './tls-trust.js';

/** One step on the way to an image, in the order in which a mount takes them. */
export interface RegistryFinding {
  readonly name: string;
  readonly status: 'ok' | 'limited' | 'failed';
  readonly found: string;
  readonly hint?: string;
}

/** A step that takes longer than this will not do for readers either. */
const STEP_MS = 15_000;
const ROUND_TRIPS = 3;
/** Large enough to be past the slow start of TCP, small enough for a slow link. */
const BANDWIDTH_BYTES = 8 * 1024 * 1024;
const PROBE_BYTES = 4096;
/** Certificates that end this soon deserve a word. */
const SOON_DAYS = 14;

const milliseconds = (value: number): string => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;

/** Takes the way to an image that a mount takes, and says at each step what it found. The first step that fails is the last. */
export async function* examineRegistry(
  text: string,
  options: SourceOptions & { readonly platform?: Platform | undefined } = {},
): AsyncGenerator<RegistryFinding, void, void> {
  let reference: Reference;
  try {
    reference = parseReference(text);
  } catch (error) {
    yield failure('reference', error);
    return;
  }
  if (reference.kind === 'registry') {
    for await (const finding of examineHost(reference, options)) {
      yield finding;
      if (finding.status === 'failed') return;
    }
  }
  yield* examineImage(reference, options);
}

function failure(name: string, error: unknown): RegistryFinding {
  const found = error instanceof Error ? error.message : String(error);
  const hint = error instanceof ClipError ? error.hint : undefined;
  return { name, status: 'failed', found, ...(hint === undefined ? {} : { hint }) };
}

/** Name, connection, TLS, login: of the registry itself, and by name of the mirrors before it. */
async function* examineHost(
  { registry, repository }: RegistryReference,
  options: SourceOptions,
): AsyncGenerator<RegistryFinding, void, void> {
  const own = settingsFromEnvironment(process.env);
  const { ca = own.ca, proxy: proxies = own.proxy, hostsDirectory = own.hostsDirectory } = options;
  const settings = { ...options, ca, proxy: proxies };
  const hosts = options.hosts ?? (await hostsFor(registry, hostsDirectory));
  const names = hosts.map((host) => hostName(host, registry));
  yield { name: 'hosts', status: 'ok', found: names.join(', then ') };

  const secure = new URL(`https://${apiHost(registry)}/v2/`);
  const host = bareHost(secure);
  const proxy = proxyFor(secure, proxies);
  if (proxy !== null) {
    yield { name: 'proxy', status: 'ok', found: `${new URL(proxy).host} resolves names and connects` };
  } else {
    let address: string;
    try {
      const begun = performance.now();
      const addresses = await lookup(host, { all: true });
      address = addresses[0]!.address;
      const found = `${host} is ${addresses.map((one) => one.address).join(', ')} (${milliseconds(performance.now() - begun)})`;
      yield { name: 'name-resolution', status: 'ok', found };
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code ?? String(error);
      const hint = 'check the name, /etc/resolv.conf, and HTTPS_PROXY if only a proxy knows it';
      yield { name: 'name-resolution', status: 'failed', found: `${host}: ${code}`, hint };
      return;
    }
    yield* examineConnection(secure, address, registry, settings);
  }

  const login = await new CredentialOrder().getCredentials(registry, repository).catch((error: unknown) => error);
  const given = options.credentials !== undefined && options.credentials !== null;
  if (login instanceof Error) yield failure('login', login);
  else yield { name: 'login', status: 'ok', found: given ? 'as given' : login === null ? 'none: anonymous' : 'found' };
}

/** TCP and TLS, each with its time. */
async function* examineConnection(
  url: URL,
  address: string,
  registry: string,
  settings: SourceOptions,
): AsyncGenerator<RegistryFinding, void, void> {
  const host = bareHost(url);
  // As clients do: HTTP if it is asked for, or on this machine where nothing speaks TLS.
  const explicitPort = /:\d+$/.test(registry);
  const port = settings.plainHttp === true && !explicitPort ? 80 : portOf(url);
  let begun = performance.now();
  try {
    (await ready(connectTcp({ host: address, port }), 'connect')).destroy();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    const hint = 'check host and port, firewalls, and HTTPS_PROXY where only a proxy reaches it';
    yield { name: 'connection', status: 'failed', found: `${address} port ${port}: ${code}`, hint };
    return;
  }
  yield { name: 'connection', status: 'ok', found: `port ${port} (${milliseconds(performance.now() - begun)})` };
  if (settings.plainHttp === true || (isLoopback(host) && !(await speaksTls(address, port)))) {
    yield { name: 'tls', status: 'ok', found: 'none: plain HTTP' };
    return;
  }
  begun = performance.now();
  try {
    const socket = (await ready(
      connectTls({
        host: address,
        port,
        ...(/[a-z]/i.test(host) ? { servername: host } : {}),
        secureContext: secureContextFor(host, port, settings),
        ALPNProtocols: ['http/1.1'],
      }),
      'secureConnect',
    )) as TLSSocket;
    const took = performance.now() - begun;
    const { valid_to: end, issuer } = socket.getPeerCertificate();
    const version = socket.getProtocol() ?? '';
    socket.destroy();
    const days = Math.floor((Date.parse(end) - Date.now()) / 86_400_000);
    const found = `${version} (${milliseconds(took)}), certificate of ${issuer?.O ?? issuer?.CN ?? 'an unnamed issuer'} for ${days} more days`;
    yield days >= SOON_DAYS
      ? { name: 'tls', status: 'ok', found }
      : { name: 'tls', status: 'limited', found, hint: "the registry's certificate ends soon" };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const hint =
      'trust its CA: SSL_CERT_FILE, or /etc/docker/certs.d/HOST/ca.crt; --plain-http for a registry without TLS';
    yield { name: 'tls', status: 'failed', found: `${code ?? ''} ${message}`.trim(), hint };
  }
}

function ready(socket: Socket, event: 'connect' | 'secureConnect'): Promise<Socket> {
  return new Promise((resolve, reject) => {
    socket.setTimeout(STEP_MS, () =>
      socket.destroy(Object.assign(new Error(`no answer within ${STEP_MS / 1000} s`), { code: 'ETIMEDOUT' })),
    );
    socket.once('error', reject).once(event, () => resolve(socket));
  });
}

/** Manifest, layers and their ranges; then what readers will feel: round trip and bandwidth. */
async function* examineImage(
  reference: Reference,
  { platform, ...options }: SourceOptions & { readonly platform?: Platform | undefined },
): AsyncGenerator<RegistryFinding, void, void> {
  const source = openImageSource(reference, options);
  try {
    let image: ResolvedImage;
    try {
      const begun = performance.now();
      image = await source.resolve({ platform });
      const bytes = image.layers.reduce((sum, { size }) => sum + size, 0);
      const found = `${image.manifestDigest} (${formatPlatform(image.platform)}), ${counted(image.layers.length, 'layer')}, ${(bytes / 1e6).toFixed(1)} MB (${milliseconds(performance.now() - begun)})`;
      yield { name: 'manifest', status: 'ok', found };
    } catch (error) {
      yield failure('manifest', error);
      return;
    }
    const largest = [...image.layers].sort((a, b) => b.size - a.size)[0];
    if (largest === undefined || largest.size === 0) return;
    const signal = AbortSignal.timeout(4 * STEP_MS);
    const read = async (start: number, length: number): Promise<number> => {
      const begun = performance.now();
      await source.fetchInto(largest.digest, start, new Uint8Array(length), { size: largest.size, signal });
      return performance.now() - begun;
    };
    try {
      const length = Math.min(PROBE_BYTES, largest.size);
      const middle = Math.floor((largest.size - length) / 2);
      const before = { ...source.counters };
      await read(middle, length);
      const received = source.counters.bytes - before.bytes;
      const redirects = source.counters.redirects - before.redirects;
      if (received > 2 * length && received > length + 1024) {
        const hint = 'layers are then read from their beginning to the place: a mirror with ranges (hosts.toml) helps';
        yield { name: 'ranges', status: 'limited', found: `${received} bytes came for ${length}`, hint };
      } else yield { name: 'ranges', status: 'ok', found: `${length} bytes asked for, ${received} came` };
      yield {
        name: 'redirects',
        status: 'ok',
        found: redirects === 0 ? 'none' : `${redirects}, to the storage of blobs`,
      };
      const times: number[] = [];
      for (let i = 0; i < ROUND_TRIPS; i++) times.push(await read(Math.min(i * length, middle), length));
      times.sort((a, b) => a - b);
      yield { name: 'round-trip', status: 'ok', found: `${milliseconds(times[1]!)} for ${length} bytes` };
      const much = Math.min(BANDWIDTH_BYTES, largest.size);
      const took = await read(0, much);
      const found = `${(much / 1000 / took).toFixed(1)} MB/s over one connection (${(much / 1e6).toFixed(1)} MB)`;
      yield { name: 'bandwidth', status: 'ok', found };
    } catch (error) {
      yield failure('ranges', error);
      return;
    }
    if (reference.kind === 'registry') yield await examineReferrers(reference, image.manifestDigest, options);
  } finally {
    await source.close();
  }
}

async function examineReferrers(
  reference: RegistryReference,
  digest: string,
  options: SourceOptions,
): Promise<RegistryFinding> {
  const artifacts = await openArtifacts(reference, options);
  try {
    if (await artifacts.listsReferrers(digest, AbortSignal.timeout(STEP_MS))) {
      return { name: 'referrers', status: 'ok', found: 'the registry lists them' };
    }
    const hint = 'clipctl push keeps the list under a tag, as OCI 1.1 describes for such registries';
    return { name: 'referrers', status: 'limited', found: 'no referrers API', hint };
  } catch (error) {
    return { ...failure('referrers', error), status: 'limited' };
  } finally {
    await artifacts.close();
  }
}
