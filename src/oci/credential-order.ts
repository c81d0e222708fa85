import type { FileUser } from '../linux/index.js';
import { CredentialPlugins } from './credential-plugins.js';
import type { Credentials, RegistryCredentialProvider } from './credentials.js';
import { DockerCredentials } from './docker-config.js';
import { environmentCredentials } from './environment-credentials.js';

/** Where and as whom to look credentials up again: plain data, for a daemon that serves this user's mounts. */
export interface CredentialLookup extends Pick<FileUser, 'uid' | 'gid'> {
  readonly env: Readonly<Record<string, string>>;
}

/** What config files and helpers (of keyrings and clouds) are found by and go by; nothing else of an environment is passed on. */
const LOOKUP_VARIABLES =
  /^(PATH|HOME|USER|LOGNAME|LANG|DOCKER_CONFIG|REGISTRY_AUTH_FILE|DBUS_SESSION_BUS_ADDRESS|GNUPGHOME|(XDG|PASSWORD_STORE|AWS|GOOGLE|CLOUDSDK|GCLOUD|AZURE|ACR|CLIP_CREDENTIAL_PROVIDER)_\w+|(https?|no|all)_proxy)$/i;

export function captureLookup(env: NodeJS.ProcessEnv): CredentialLookup {
  const passed = Object.entries(env).filter(
    (entry): entry is [string, string] => entry[1] !== undefined && LOOKUP_VARIABLES.test(entry[0]),
  );
  return { env: Object.fromEntries(passed), uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
}

/**
 * Logins in the order of docs/cli.md, "Logins": environment, a provider of the caller's, files of Podman and Docker, plugins of
 * the kubelet. The first that has one for the registry decides; null at the end is anonymous.
 */
export class CredentialOrder implements RegistryCredentialProvider {
  readonly name = 'order';
  readonly #providers: readonly RegistryCredentialProvider[];

  /** @param user for whom, if not for this process's user: files are read and programs run with their rights */
  constructor(
    env: NodeJS.ProcessEnv = process.env,
    provider: RegistryCredentialProvider | undefined = undefined,
    user: FileUser | null = null,
  ) {
    this.#providers = [
      { name: 'environment', getCredentials: async (...image) => environmentCredentials(env, ...image) },
      ...(provider === undefined ? [] : [provider]),
      new DockerCredentials(env, user),
      new CredentialPlugins(env, user),
    ];
  }

  async getCredentials(registry: string, repository: string): Promise<Credentials | null> {
    for (const provider of this.#providers) {
      const found = await provider.getCredentials(registry, repository);
      if (found !== null) return found;
    }
    return null;
  }
}

/**
 * Credentials of one registry that were resolved in another process. Once they are refused, they are looked up again where they came
 * from, as those of the registry's mirrors are.
 */
export class CapturedCredentials implements RegistryCredentialProvider {
  readonly name = 'captured';
  readonly #registry: string | undefined;
  readonly #lookup: CredentialOrder;
  #captured: Credentials | null | undefined;

  /** @param registry of which they are; undefined: not known, so that they are looked up again */
  constructor(captured: Credentials | null, registry: string | undefined, lookup: CredentialLookup) {
    this.#captured = captured;
    this.#registry = registry;
    this.#lookup = new CredentialOrder({ ...lookup.env }, undefined, lookup);
  }

  async getCredentials(registry: string, repository: string): Promise<Credentials | null> {
    const captured = registry === this.#registry ? this.#captured : undefined;
    if (registry === this.#registry) this.#captured = undefined;
    return captured === undefined ? this.#lookup.getCredentials(registry, repository) : captured;
  }
}
