import { resolve } from 'node:path';
import type { Command } from 'commander';
import { ClipError } from '../bytes/index.js';
import { grouped } from './common-flags.js';

export interface RegistryFlags {
  readonly plainHttp?: boolean;
  readonly creds?: string;
  readonly allowPrivateRedirects?: boolean;
  readonly hostsDir?: string;
  readonly credentialProviderConfig?: string;
  readonly credentialProviderBinDir?: string;
}

/** The flags of every command that talks to a registry. Each flag but the first two sets the variable of its name. */
export function addRegistryFlags(command: Command): Command {
  return grouped(command, 'Reaching registries:', (group) =>
    group
      .option('--plain-http', 'use HTTP with the registry, not HTTPS')
      .option('--creds <user:password>', "log in with these instead of the Docker config's entry")
      .option('--allow-private-redirects', 'follow redirects from a public registry into private networks')
      .option('--hosts-dir <dir>', "mirrors, in containerd's format (default $CLIP_HOSTS_DIR, /etc/containerd/certs.d)")
      .option('--credential-provider-config <file>', "plugins that know logins: the kubelet's CredentialProviderConfig")
      .option('--credential-provider-bin-dir <dir>', 'where those plugins are')
      .hook('preAction', (_, action) => {
        const flags: RegistryFlags = action.opts();
        if (flags.allowPrivateRedirects === true) process.env.CLIP_ALLOW_PRIVATE_REDIRECTS = '1';
        setVariable('CLIP_HOSTS_DIR', flags.hostsDir);
        setVariable('CLIP_CREDENTIAL_PROVIDER_CONFIG', flags.credentialProviderConfig);
        setVariable('CLIP_CREDENTIAL_PROVIDER_BIN_DIR', flags.credentialProviderBinDir);
      }),
  );
}

function setVariable(name: string, path: string | undefined): void {
  if (path !== undefined) process.env[name] = resolve(path);
}

export function credentialsFrom(flags: RegistryFlags): { username: string; password: string } | undefined {
  const { creds } = flags;
  if (creds === undefined) return undefined;
  const colon = creds.indexOf(':');
  if (colon <= 0) {
    throw new ClipError('USAGE', '--creds takes USER:PASSWORD', {
      hint: 'docker login, or a file named by REGISTRY_AUTH_FILE, keeps passwords out of the process list',
    });
  }
  return { username: creds.slice(0, colon), password: creds.slice(colon + 1) };
}
