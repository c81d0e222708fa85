import { type Check, checked } from '../bytes/index.js';

/** How to log in to a registry. Plain data: a client resolves it and a daemon uses it. */
export interface Credentials {
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  /** An OAuth2 refresh token, exchanged for an access token ("identitytoken" in Docker's config). */
  readonly identityToken?: string | undefined;
  /** A bearer token used as it is. */
  readonly registryToken?: string | undefined;
}

/** A provider of the caller's: asked when a registry demands a login, and again when what it gave has expired. */
export interface RegistryCredentialProvider {
  readonly name: string;
  /** @returns null if it has none: the next in the order of docs/cli.md, "Logins" is asked. A rejection fails the request. */
  getCredentials(registry: string, repository: string): Promise<Credentials | null>;
}

/** As an option of ours. What is in it is never shown. */
export const credentialsOption: Check<Credentials | RegistryCredentialProvider | null> = checked(
  'null, { username, password }, or an object with getCredentials()',
  (value) => {
    if (value === null) return true;
    if (typeof value !== 'object' || Array.isArray(value)) return false;
    const { getCredentials, username, password, identityToken, registryToken } = value as Record<string, unknown>;
    const texts = [username, password, identityToken, registryToken];
    return getCredentials === undefined
      ? texts.every((text) => text === undefined || typeof text === 'string')
      : typeof getCredentials === 'function';
  },
);

export function isProvider(
  credentials: Credentials | RegistryCredentialProvider | null | undefined,
): credentials is RegistryCredentialProvider {
  return credentials !== null && credentials !== undefined && 'getCredentials' in credentials;
}
