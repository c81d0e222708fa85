import { DEFAULT_HOSTS_DIRECTORY } from './hosts.js';
import { type ProxySettings, proxyFromEnvironment } from './proxy.js';
import { environmentCa } from './system-certificates.js';

/** How this machine reaches registries, as plain data for another process. */
export interface RegistrySettings {
  /** PEM certificates to trust besides the system's. */
  readonly ca: string;
  readonly proxy: ProxySettings;
  /** Redirects may lead from the internet into private networks (docs/security.md, "Registries"). */
  readonly allowPrivateRedirects: boolean;
  /** Of containerd's host configuration. */
  readonly hostsDirectory: string;
}

/** Of the variables that clipctl's flags of the same names set. */
export function settingsFromEnvironment(env: NodeJS.ProcessEnv): RegistrySettings {
  return {
    ca: environmentCa(env),
    proxy: proxyFromEnvironment(env),
    allowPrivateRedirects: env.CLIP_ALLOW_PRIVATE_REDIRECTS === '1',
    hostsDirectory: env.CLIP_HOSTS_DIR || DEFAULT_HOSTS_DIRECTORY,
  };
}
