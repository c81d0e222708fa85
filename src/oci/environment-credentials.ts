import { ClipError } from '../bytes/index.js';
import type { Credentials } from './credentials.js';
import { asObject, findAuth, parseAuth } from './docker-config.js';
import { type Json, parseJsonObject } from './manifest.js';

/** "ghcr.io" is GHCR_IO, "registry.example.com:5000" is REGISTRY_EXAMPLE_COM_5000. */
function variableName(registry: string): string {
  return registry.toUpperCase().replaceAll(/[^A-Z0-9]/g, '_');
}

const HUB_NAMES = ['docker.io', 'index.docker.io', 'registry-1.docker.io'];

/**
 * CLIP_REGISTRY_USER_HOST with CLIP_REGISTRY_PASS_HOST, then CLIP_OCI_AUTH: JSON as in Docker's `auths`, by host or
 * host/namespace. @throws ClipError USAGE for a user without a password; BAD_FORMAT. Never with a secret in it.
 */
export function environmentCredentials(
  env: NodeJS.ProcessEnv,
  registry: string,
  repository: string,
): Credentials | null {
  for (const host of registry === 'docker.io' ? HUB_NAMES : [registry]) {
    const name = variableName(host);
    const [username, password] = [env[`CLIP_REGISTRY_USER_${name}`], env[`CLIP_REGISTRY_PASS_${name}`]];
    if (!username && !password) continue;
    if (username && password) return { username, password };
    throw new ClipError(
      'USAGE',
      `CLIP_REGISTRY_${username ? 'USER' : 'PASS'}_${name} is set, and its counterpart is not`,
      {
        hint: `set both CLIP_REGISTRY_USER_${name} and CLIP_REGISTRY_PASS_${name}`,
      },
    );
  }
  const text = env.CLIP_OCI_AUTH;
  if (!text) return null;
  let json: Json;
  try {
    json = parseJsonObject(Buffer.from(text), 'CLIP_OCI_AUTH');
  } catch {
    // The parser's error quotes the text, which holds passwords.
    throw new ClipError('BAD_FORMAT', 'the variable CLIP_OCI_AUTH is not JSON', {
      hint: 'write {"HOST": {"username": "…", "password": "…"}}, or Docker\'s {"auths": {…}}',
    });
  }
  const entry = findAuth(json.auths === undefined ? json : asObject(json.auths), registry, repository);
  return entry === null ? null : parseAuth(entry, `CLIP_OCI_AUTH: the entry for ${registry}`);
}
