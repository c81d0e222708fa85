import { type ChildProcess, spawn } from 'node:child_process';
import { closeFd, socketPair, unixSocket } from '../linux/index.js';
import { ADOPT, KEEPER_FLAGS, KEEPER_MAIN, keeperEnvironment, SERVER_ENVIRONMENT, SERVER_MAIN } from '../wire/index.js';

/**
 * Starts a server, and becomes its keeper: a server is its keeper's child, and neither waits for the other's boot. Arguments: Node, the server's
 * program, and those of the keeper. The server's descriptors 3 to 5 are its IPC channel, LISTEN_FD and FDS_SOCKET_FD, the keeper's those of
 * ADOPTED.
 */
const START_BOTH = `server=$1; shift
NODE_CHANNEL_FD=3 ${Object.entries(SERVER_ENVIRONMENT)
  .map(([name, value]) => `${name}=${value}`)
  .join(' ')} "$0" "$server" </dev/null >/dev/null 3>&6 4>&5 5>&7 6>&- 7>&- &
exec "$0" "$@" "$!" 6>&- 7>&-`;

/** Launched, and told nothing yet. */
let waiting: ChildProcess | null = null;

/** The same with its server beside it. */
function launchBoth(): ChildProcess {
  const [channel, serverChannel] = socketPair('stream');
  const [fds, serverFds] = socketPair('seqpacket', true);
  const inherited = [channel, fds, unixSocket(), serverChannel, serverFds];
  const args = ['-c', START_BOTH, process.execPath, SERVER_MAIN, ...KEEPER_FLAGS, KEEPER_MAIN, ADOPT];
  try {
    return start('/bin/sh', args, inherited);
  } finally {
    for (const fd of inherited) closeFd(fd);
  }
}

function start(program: string, args: readonly string[], inherited: readonly number[]): ChildProcess {
  const child = spawn(program, args, {
    env: keeperEnvironment(process.env),
    detached: true,
    cwd: '/',
    // It turns its standard error to the log of the root that it is told.
    stdio: ['pipe', 'pipe', 'inherit', ...inherited],
  });
  child.stdin!.on('error', () => {}); // its exit says more
  return child;
}

/** A keeper in a session of its own. It waits for its settings, one line on its standard input, and ends without them. */
function launch(): ChildProcess {
  return start(process.execPath, [...KEEPER_FLAGS, KEEPER_MAIN], []);
}

/** Lets a keeper boot while this process finds out what to tell it. It ends with this process if that never happens. */
export function launchKeeper(): void {
  waiting = launchBoth();
  waiting.on('error', () => dropKeeper());
  waiting.unref();
  for (const stream of [waiting.stdin, waiting.stdout]) (stream as unknown as { unref(): void }).unref();
}

/** No keeper is needed after all. */
export function dropKeeper(): void {
  waiting?.stdin?.destroy();
  waiting = null;
}

/** The keeper that was launched, or a new one. */
export function takeKeeper(): ChildProcess {
  const child = waiting;
  waiting = null;
  if (child === null || child.pid === undefined || child.exitCode !== null || child.signalCode !== null)
    return launch();
  child.ref();
  (child.stdout as unknown as { ref(): void }).ref();
  return child;
}
