import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './processes.js';

export interface Certificates {
  readonly caCert: string;
  /** For 127.0.0.1, ::1 and localhost, signed by the CA. */
  readonly serverCert: string;
  readonly serverKey: string;
  /** Self-signed; signs tokens. */
  readonly tokenCert: string;
  readonly tokenKey: string;
}

const EC_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];

/** A CA, a server certificate for loopback and one for signing tokens, made by openssl. Paths of PEM files. */
export async function makeCertificates(directory: string): Promise<Certificates> {
  await mkdir(directory, { recursive: true });
  const at = (name: string): string => join(directory, name);
  const caCert = at('ca.crt');
  const caKey = at('ca.key');
  await run('openssl', ['req', '-x509', ...EC_KEY, '-keyout', caKey, '-out', caCert, '-subj', '/CN=clip test CA']);
  await run('openssl', [
    'req',
    ...EC_KEY,
    '-keyout',
    at('server.key'),
    '-out',
    at('server.csr'),
    '-subj',
    '/CN=localhost',
  ]);
  await writeFile(at('server.ext'), 'subjectAltName=IP:127.0.0.1,IP:::1,DNS:localhost\n');
  const sign = [
    'x509',
    '-req',
    '-in',
    at('server.csr'),
    '-CA',
    caCert,
    '-CAkey',
    caKey,
    '-CAcreateserial',
    '-days',
    '2',
  ];
  await run('openssl', [...sign, '-extfile', at('server.ext'), '-out', at('server.crt')]);
  await run('openssl', [
    'req',
    '-x509',
    ...EC_KEY,
    '-keyout',
    at('token.key'),
    '-out',
    at('token.crt'),
    '-subj',
    '/CN=clip test tokens',
  ]);
  return {
    caCert,
    serverCert: at('server.crt'),
    serverKey: at('server.key'),
    tokenCert: at('token.crt'),
    tokenKey: at('token.key'),
  };
}
