import { ClipError } from '../bytes/index.js';
import type { Credentials } from './credentials.js';
import { asObject, findAuth, parseAuth } from './docker-config.js';
import { type Json, parseJsonObject } from './manifest.js';

/**
 * "ghcr.io" is GHCR_IO, "registry.example.com:5000" is REGISTRY_EXAMPLE_COM_5000, "my-registry.example.com" is MY__REGISTRY_EXAMPLE_COM:
 * an archive may name registry-example.com, which must not get the login of registry.example.com.
 */
function variableName(registry: string): string {
  return registry
    .toUpperCase()
    .replaceAll('-', '__')
    .replaceAll(/[^A-Z0-9_]/g, '_');
}

const HUB_VARIABLES = ['DOCKER_IO', 'INDEX_DOCKER_IO', 'REGISTRY_1_DOCKER_IO'];

/**
 * CLIP_REGISTRY_USER_HOST with CLIP_REGISTRY_PASS_HOST, then CLIP_OCI_AUTH: JSON as in Docker's `auths`, by host or
 * host/namespace. @throws ClipError USAGE for a user without a password; BAD_FORMAT. Never with a secret in it.
 */
export function environmentCredentials(
  env: NodeJS.ProcessEnv,
  registry: string,
  repository: string,
): Credentials | null {
  for (const name of registry === 'docker.io' ? HUB_VARIABLES : [variableName(registry)]) {
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
