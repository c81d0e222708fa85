import { constants, openSync, readdirSync, rmSync, statSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { makeFifo } from '../linux/index.js';
import { collectGarbage } from '../loader/index.js';
import { OwnDirectory } from '../paths/index.js';
import { SPARE_DIRECTORY, SPARE_MAIN } from '../wire/index.js';
import { type Caller, callerOf } from './caller.js';
import { declineBy } from './own-process.js';

/** After this long without a call it ends: the memory is another's. */
const IDLE_MS = 600_000;
/** Whether the caller is still there is looked up this often while its command runs. */
const WATCH_MS = 20;
/** Its exit code until it is called: the keeper replaces only one that was used. */
const UNUSED = 3;
/** While the caller does not read. */
const RETRY_MS = 5;

const EXECUTABLE = join(dirname(SPARE_MAIN), '../../bin/clipctl.js');

/** A client in reserve: `clipctl`, loaded, in wait for one call (docs/internals/start.md, "The client in reserve"). */
export async function serveOneCall(root: string): Promise<void> {
  process.title = 'clipctl in reserve';
  process.exitCode = UNUSED;
  const build = identityOfBuild();
  const { runCommandLine } = await import('./program.js');
  await Promise.all([
    import('./commands/mount.js'),
    import('./commands/umount.js'),
    import('./prepare.js'),
    import('../client/index.js'),
  ]);
  const offer = new Offer(root);
  collectGarbage();
  const caller = callerOf(await offer.called());
  process.exitCode = 0;
  if (caller === null || !isOwn(caller.script) || identityOfBuild() !== build) return offer.decline();
  offer.answerInItsPlace(caller);
  await runCommandLine();
}

/** Whether this is the script that would have run this program. */
function isOwn(script: string): boolean {
  const [one, other] = [statSync(script, { throwIfNoEntry: false }), statSync(EXECUTABLE, { throwIfNoEntry: false })];
  return one !== undefined && one.dev === other?.dev && one.ino === other.ino;
}

/** Another one when the program has been replaced since it was loaded. */
function identityOfBuild(): string {
  return [dirname(SPARE_MAIN), SPARE_MAIN]
    .map((path) => statSync(path, { throwIfNoEntry: false }))
    .map((stat) => `${stat?.dev}:${stat?.ino}${stat?.isFile() ? `:${stat.mtimeMs}` : ''}`)
    .join(' ');
}

/** What lies in the root for the shells that look for a client in reserve, and the conversation with the one that has taken it. */
class Offer {
  readonly #directory: OwnDirectory;
  readonly #call: number;
  readonly #answer: number;
  #ended = false;

  constructor(root: string) {
    const parent = OwnDirectory.open(root);
    parent.make(SPARE_DIRECTORY);
    this.#directory = parent.directory(SPARE_DIRECTORY);
    parent.close();
    // Of an earlier one: a shell that it answers has its files open.
    for (const name of readdirSync(this.#directory.at('.'))) this.#remove(name);
    this.#call = this.#fifo('call');
    this.#answer = this.#fifo('answer');
    this.#directory.replace('id', `${process.pid} ${this.#call} ${EXECUTABLE}\n`, { durable: false });
  }

  /** For both directions, so that neither side ever waits for the other to open it. What is written stays until it is read. */
  #fifo(kind: string): number {
    const path = this.#directory.at(`${process.pid}.${kind}`);
    makeFifo(path, 0o600);
    return openSync(path, constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOFOLLOW);
  }

  #remove(name: string): void {
    rmSync(this.#directory.at(name), { force: true, recursive: true });
  }

  /** The process that has taken this client. If none does in time, or the keeper goes, this process ends. */
  async called(): Promise<number> {
    const calls = new Socket({ fd: this.#call, readable: true, writable: false });
    const pid = await new Promise<number | null>((resolve) => {
      const unused = (): void => resolve(null);
      process.stdin.on('end', unused).on('error', unused).resume();
      setTimeout(unused, IDLE_MS).unref();
      calls.once('data', (text: Buffer) => resolve(Number(text.toString('latin1'))));
    });
    // The next one in reserve makes its own.
    this.#remove('id');
    process.once('exit', () => {
      for (const kind of ['call', 'answer', 'claim']) this.#remove(`${process.pid}.${kind}`);
    });
    if (pid === null) process.exit();
    process.stdin.destroy();
    calls.destroy();
    return pid;
  }

  /** One line of the answer. */
  #send(line: string, caller: Caller | null): void {
    const bytes = Buffer.from(`${line}\n`);
    for (let sent = 0; sent < bytes.length && !this.#ended; ) {
      try {
        sent += writeSync(this.#answer, bytes, sent);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
        this.#ended = caller?.lives() !== true;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, RETRY_MS);
      }
    }
  }

  decline(): never {
    this.#send('d', null);
    this.#ended = true;
    process.exit();
  }

  /** From now on this process is the caller's: arguments, environment, directory, output and exit code. */
  answerInItsPlace(caller: Caller): void {
    process.title = 'clipctl';
    process.argv.splice(1, process.argv.length, caller.script, ...caller.args);
    for (const name of Object.keys(process.env)) delete process.env[name];
    Object.assign(process.env, caller.env);
    process.chdir(caller.directory);
    process.umask(caller.umask);
    declineBy(() => this.decline());
    const flush = { o: this.#lines('o', process.stdout, caller), e: this.#lines('e', process.stderr, caller) };
    process.prependOnceListener('exit', (code) => {
      flush.o();
      flush.e();
      this.#send(`x${code}`, caller);
      process.exitCode = 0;
    });
    const watch = setInterval(() => {
      if (caller.lives()) return;
      clearInterval(watch);
      process.kill(process.pid, 'SIGHUP'); // as when a terminal is closed
    }, WATCH_MS).unref();
  }

  /** Sends what is written to a stream by lines. @returns sends the rest */
  #lines(kind: 'o' | 'e', stream: NodeJS.WriteStream, caller: Caller): () => void {
    let rest = '';
    const write = (chunk: string | Uint8Array, ...more: unknown[]): boolean => {
      rest += typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString('utf8');
      for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n')) {
        this.#send(kind + rest.slice(0, end), caller);
        rest = rest.slice(end + 1);
      }
      const done = more.at(-1);
      if (typeof done === 'function') queueMicrotask(() => done());
      return true;
    };
    stream.write = write as typeof stream.write;
    return () => {
      if (rest !== '') this.#send(kind + rest, caller);
    };
  }
}
