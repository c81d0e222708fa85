import { ClipError } from '../bytes/index.js';
import { type CredentialLookup, CredentialOrder, captureLookup } from './credential-order.js';
import { type Credentials, isProvider } from './credentials.js';
import { hostName, hostsFor, type RegistryHost } from './hosts.js';
import type { SourceOptions } from './open.js';
import { parseReference, type RegistryReference } from './reference.js';
import { type RegistrySettings, settingsFromEnvironment } from './settings.js';

/** What only this process can see of how to reach a registry, as JSON for another process; SourceOptions by shape. */
export interface RegistryAccess extends RegistrySettings {
  /** Of which these logins and hosts are. */
  readonly registry: string;
  readonly credentials: Credentials | null;
  readonly lookup?: CredentialLookup;
  readonly plainHttp: boolean;
  readonly hosts: readonly RegistryHost[];
}

/** Resolves here and now what a daemon cannot see: logins, certificates, proxies of this process. */
export async function captureAccess(
  image: Pick<RegistryReference, 'registry' | 'repository'>,
  options: Pick<SourceOptions, 'credentials' | 'plainHttp'> = {},
  env: NodeJS.ProcessEnv = process.env,
): Promise<RegistryAccess> {
  // As it will be asked for: the archive's words may mean another host.
  const reference = parseReference(`${image.registry}/${image.repository}`);
  if (reference.kind !== 'registry') throw new ClipError('BAD_REFERENCE', `${image.registry} is not a registry`);
  const { registry, repository } = reference;
  const plainHttp = options.plainHttp ?? false;
  const fromConfig = options.credentials === undefined;
  const given = options.credentials;
  const credentials =
    given === undefined || isProvider(given)
      ? await new CredentialOrder(env, given).getCredentials(registry, repository)
      : given;
  const lookup = fromConfig ? { lookup: captureLookup(env) } : {};
  const settings = settingsFromEnvironment(env);
  const logins = new CredentialOrder(env, isProvider(given) ? given : undefined);
  const hosts = await Promise.all(
    (await hostsFor(registry, settings.hostsDirectory)).map(async (host) => {
      if (host.base === null) return host;
      return { ...host, credentials: await logins.getCredentials(hostName(host, registry), repository) };
    }),
  );
  return { registry, credentials, ...lookup, plainHttp, hosts, ...settings };
}
