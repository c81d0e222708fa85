import { ClipError } from '../bytes/index.js';
import type { FileUser } from '../linux/index.js';
import { ArtifactRepository } from './artifacts.js';
import type { ClientOptions } from './client.js';
import { CapturedCredentials, type CredentialLookup, CredentialOrder } from './credential-order.js';
import { type Credentials, isProvider, type RegistryCredentialProvider } from './credentials.js';
import { DEFAULT_HOSTS_DIRECTORY, hostsFor, type RegistryHost } from './hosts.js';
import { LayoutSource } from './layout.js';
import type { ProxySettings } from './proxy.js';
import { originReference, parseReference, type Reference, type RegistryReference } from './reference.js';
import { RegistrySource } from './registry.js';
import { RegistryHosts } from './registry-hosts.js';
import type { RetryPolicy } from './retry.js';
import { settingsFromEnvironment } from './settings.js';
import type { ArchiveOrigin, ImageSource } from './source.js';

/** How to reach a registry. Without a field, the environment and the Docker config of this process decide. */
export interface SourceOptions {
  /** Of which `credentials` and `hosts` are: another one is refused. */
  readonly registry?: string | undefined;
  /** null: anonymous. A provider is asked in the order of docs/cli.md, "Logins". Default: that order. */
  readonly credentials?: Credentials | RegistryCredentialProvider | null | undefined;
  /** With plain `credentials`: where to look for new ones when they are refused. */
  readonly lookup?: CredentialLookup | undefined;
  readonly plainHttp?: boolean | undefined;
  /** Redirects may lead from the internet into private networks (docs/security.md, "Registries"). */
  readonly allowPrivateRedirects?: boolean | undefined;
  /** PEM certificates to trust besides the system's. */
  readonly ca?: string | undefined;
  readonly proxy?: ProxySettings | undefined;
  /** Parallel connections to one host. Default 32: as many as the span queue has requests under way, so that readers never wait behind prefetch. */
  readonly connections?: number | undefined;
  readonly retry?: Partial<RetryPolicy> | undefined;
  /** In place of /etc/docker/certs.d and /etc/containers/certs.d. */
  readonly certsDirectories?: readonly string[] | undefined;
  readonly idleTimeoutMs?: number | undefined;
  /** The registry's mirrors and itself. Default: what `hostsDirectory` says. */
  readonly hosts?: readonly RegistryHost[] | undefined;
  /** In place of /etc/containerd/certs.d. */
  readonly hostsDirectory?: string | undefined;
  /** Whose file permissions decide about image layouts, when this process reads for another user. */
  readonly layoutUser?: FileUser | undefined;
}

/** Opens what a reference names; nothing is fetched yet. */
export function openImageSource(reference: Reference | string, options: SourceOptions = {}): ImageSource {
  const parsed = typeof reference === 'string' ? parseReference(reference) : reference;
  if (parsed.kind === 'layout') return new LayoutSource(parsed, options.layoutUser);
  // An archive that was replaced while it was being mounted would get the login of the first one's registry.
  if (options.registry !== undefined && options.registry !== parsed.registry) {
    throw new ClipError('UNAUTHORIZED', `${parsed.canonical} is wanted with a login for ${options.registry}`, {
      hint: 'the archive was replaced while it was being mounted: mount it again',
    });
  }
  return new RegistrySource(parsed, clientOptions(options));
}

function clientOptions(options: SourceOptions): ClientOptions {
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as SourceOptions;
  return {
    ...settingsFromEnvironment(process.env),
    ...given,
    credentials: credentialsOf(options),
    plainHttp: options.plainHttp ?? false,
  };
}

/**
 * The repository of an image, for the archives that are kept beside it.
 * @param access whether tokens must allow pushing, and taking blobs over from another repository
 */
export async function openArtifacts(
  { registry, repository }: Pick<RegistryReference, 'registry' | 'repository'>,
  options: SourceOptions = {},
  access: { readonly push?: boolean; readonly mountFrom?: string | undefined } = {},
): Promise<ArtifactRepository> {
  const client = { ...clientOptions(options), ...access };
  const hosts = client.hosts ?? (await hostsFor(registry, client.hostsDirectory ?? DEFAULT_HOSTS_DIRECTORY));
  const counters = { requests: 0, bytes: 0, retries: 0, redirects: 0, tokens: 0 };
  return new ArtifactRepository(new RegistryHosts(hosts, registry, repository, client, counters), repository);
}

function credentialsOf({
  registry,
  credentials,
  lookup,
}: SourceOptions): Credentials | RegistryCredentialProvider | null {
  if (credentials === undefined) return new CredentialOrder();
  if (isProvider(credentials)) return new CredentialOrder(process.env, credentials);
  return lookup === undefined ? credentials : new CapturedCredentials(credentials, registry, lookup);
}

/** For reading an archive's layers, by digest, from where they were when it was indexed. */
export function sourceForArchive(origin: ArchiveOrigin, options: SourceOptions = {}): ImageSource {
  return openImageSource(originReference(origin), options);
}
