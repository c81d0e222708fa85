/** The variable that keeps the value meanwhile. */
const HELD = 'CLIP_NODE_EXTRA_CA_CERTS';

/**
 * Node parses the file that NODE_EXTRA_CA_CERTS names before it runs the program, which delays its start (docs/benchmarks.md, "Why
 * these constants"). The keeper makes no TLS connections, and oci/ reads the file itself when it needs it. So our processes are started
 * without the variable.
 */
export function holdBackExtraCertificates(env: NodeJS.ProcessEnv): void {
  if (env.NODE_EXTRA_CA_CERTS === undefined) return;
  env[HELD] = env.NODE_EXTRA_CA_CERTS;
  delete env.NODE_EXTRA_CA_CERTS;
}

/** Restores the variable: for a process that uses Node's own TLS, or, in a running process, for code that reads the variable. */
export function restoreExtraCertificates(env: NodeJS.ProcessEnv): void {
  if (env[HELD] === undefined) return;
  env.NODE_EXTRA_CA_CERTS = env[HELD];
  delete env[HELD];
}
