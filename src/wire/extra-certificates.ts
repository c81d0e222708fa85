/** Where the variable's value is kept meanwhile. */
const HELD = 'CLIP_NODE_EXTRA_CA_CERTS';

/**
 * Node parses the file that NODE_EXTRA_CA_CERTS names before it runs anything, which takes 35 ms for a system's bundle. The keeper
 * talks to nobody, and oci/ reads the file itself when it needs it: our processes are started without the variable.
 */
export function holdBackExtraCertificates(env: NodeJS.ProcessEnv): void {
  if (env.NODE_EXTRA_CA_CERTS === undefined) return;
  env[HELD] = env.NODE_EXTRA_CA_CERTS;
  delete env.NODE_EXTRA_CA_CERTS;
}

/** The environment as it was: for a process whose TLS is Node's own, or, once it has started, for whoever reads the variable. */
export function restoreExtraCertificates(env: NodeJS.ProcessEnv): void {
  if (env[HELD] === undefined) return;
  env.NODE_EXTRA_CA_CERTS = env[HELD];
  delete env[HELD];
}
