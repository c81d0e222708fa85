import { readFileSync, realpathSync } from 'node:fs';
import { ClipError } from '../bytes/index.js';

/** The system's trust store, as Go's crypto/x509 finds it on Linux: what Docker would trust. */
const SYSTEM_BUNDLES = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/ssl/ca-bundle.pem',
  '/etc/pki/tls/cacert.pem',
  '/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem',
  '/etc/ssl/cert.pem',
];

export function readIfThere(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') return null;
    throw new ClipError('PERMISSION', `cannot read the certificate file ${path}: ${code}`, { cause: error });
  }
}

function realpathIfThere(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

export function systemBundle(): { path: string; pem: string } | null {
  for (const path of SYSTEM_BUNDLES) {
    const pem = readIfThere(path);
    if (pem !== null) return { path: realpathIfThere(path), pem };
  }
  return null;
}

/**
 * The CA certificates that this environment adds (SSL_CERT_FILE, NODE_EXTRA_CA_CERTS), as PEM. A variable that only points at
 * the system's own bundle adds nothing: that one is always trusted.
 */
export function environmentCa(env: NodeJS.ProcessEnv): string {
  const system = SYSTEM_BUNDLES.map(realpathIfThere);
  const files = new Set<string>();
  for (const name of ['SSL_CERT_FILE', 'NODE_EXTRA_CA_CERTS']) {
    const path = env[name];
    if (path === undefined || path === '') continue;
    const real = realpathIfThere(path);
    if (!system.includes(real)) files.add(real);
  }
  return [...files].map((path) => readIfThere(path) ?? '').join('\n');
}
