/** Where NODE_EXTRA_CA_CERTS is kept meanwhile. */
const HELD = 'CLIP_NODE_EXTRA_CA_CERTS';

/**
 * What a keeper and its servers go by: where programs, configuration, certificates, proxies and credentials are, and what Node, the
 * dynamic linker and the clients of content caches read. Everything else in the environment of whoever happened to start clipd
 * first, secrets among it, is not kept for the weeks that it runs, and not handed to the credential helpers of its later users.
 */
const KEPT =
  /^(PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|TMPDIR|NOTIFY_SOCKET|JOURNAL_STREAM|SSL_CERT_(FILE|DIR)|DOCKER_CONFIG|REGISTRY_AUTH_FILE|DBUS_SESSION_BUS_ADDRESS|GNUPGHOME|(CLIP|NODE|LD|MALLOC|XDG|PASSWORD_STORE|AWS|GOOGLE|CLOUDSDK|GCLOUD|AZURE|ACR|OTEL)_\w+|(https?|no|all)_proxy|REQUEST_METHOD)$/i;

/**
 * The environment of a keeper. NODE_EXTRA_CA_CERTS is put aside: Node parses the file that it names before it runs anything, which takes 35 ms
 * for a system's bundle. The keeper connects to no server, and oci/ reads the file itself when it needs it.
 */
export function keeperEnvironment(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const kept = Object.fromEntries(Object.entries(env).filter(([name]) => KEPT.test(name)));
  if (kept.NODE_EXTRA_CA_CERTS !== undefined) {
    kept[HELD] = kept.NODE_EXTRA_CA_CERTS;
    delete kept.NODE_EXTRA_CA_CERTS;
  }
  return kept;
}

/** Brings NODE_EXTRA_CA_CERTS back: for a process whose TLS is Node's own, or, once it has started, for all that read the variable. */
export function restoreExtraCertificates(env: NodeJS.ProcessEnv): void {
  if (env[HELD] === undefined) return;
  env.NODE_EXTRA_CA_CERTS = env[HELD];
  delete env[HELD];
}
