import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { createSecureContext, rootCertificates, type SecureContext } from 'node:tls';
import { ClipError } from '../bytes/index.js';
import { readIfThere, systemBundle } from './system-certificates.js';

/** Where Docker, Podman and containerd keep a registry's own CA and client certificates: DIR/HOST[:PORT]/*.crt, *.cert with *.key. */
const CERTS_DIRECTORIES = ['/etc/docker/certs.d', '/etc/containers/certs.d', '/etc/containerd/certs.d'];

function splitPem(pem: string): string[] {
  return pem.match(/-----BEGIN (?:TRUSTED )?CERTIFICATE-----[\s\S]*?-----END (?:TRUSTED )?CERTIFICATE-----/g) ?? [];
}

export interface TrustOptions {
  /** PEM to trust on top of the system's store. */
  readonly ca?: string | undefined;
  /** Default: Docker's and Podman's. */
  readonly certsDirectories?: readonly string[] | undefined;
  /** PEM: what this machine shows to a server that asks, besides what certs.d holds. */
  readonly client?: readonly { readonly cert: string; readonly key: string }[] | undefined;
  /** Take any certificate: `skip_verify` of a hosts.toml. */
  readonly skipVerify?: boolean | undefined;
}

/**
 * The TLS identity for one host: Node's and the system's roots, `ca`, and what certs.d holds for "host:port" or "host".
 * Made once per host, because parsing certificates takes long (docs/benchmarks.md, "Why these constants").
 */
export function secureContextFor(host: string, port: number, options: TrustOptions): SecureContext {
  const extra: string[] = [];
  const client = [...(options.client ?? [])];
  for (const base of options.certsDirectories ?? CERTS_DIRECTORIES) {
    for (const name of port === 443 ? [`${host}:443`, host] : [`${host}:${port}`]) {
      const directory = join(base, name);
      for (const file of listIfThere(directory)) {
        if (file.endsWith('.crt')) extra.push(...splitPem(readIfThere(join(directory, file)) ?? ''));
        if (!file.endsWith('.cert')) continue;
        const key = readIfThere(join(directory, `${file.slice(0, -'.cert'.length)}.key`));
        if (key === null) throw new ClipError('NOT_FOUND', `${join(directory, file)} has no .key file beside it`);
        client.push({ cert: readIfThere(join(directory, file)) ?? '', key });
      }
    }
  }
  const roots = new Set([
    ...rootCertificates,
    ...splitPem(systemBundle()?.pem ?? ''),
    ...splitPem(options.ca ?? ''),
    ...extra,
  ]);
  try {
    return createSecureContext({
      ca: [...roots],
      ...(client.length > 0 && { cert: client.map((c) => c.cert), key: client.map((c) => c.key) }),
    });
  } catch (cause) {
    throw new ClipError('BAD_FORMAT', `a certificate for ${host}:${port} cannot be used: ${(cause as Error).message}`, {
      cause,
      hint: `look at SSL_CERT_FILE, NODE_EXTRA_CA_CERTS and ${CERTS_DIRECTORIES[0]}/${host}:${port}`,
    });
  }
}

function listIfThere(directory: string): string[] {
  try {
    return readdirSync(directory).sort();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') return [];
    throw new ClipError('PERMISSION', `cannot list ${directory}: ${code}`, { cause: error });
  }
}
