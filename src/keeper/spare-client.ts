import { type ChildProcess, spawn } from 'node:child_process';
import { SERVER_ENVIRONMENT, SPARE_MAIN } from '../wire/index.js';

/** What has just been mounted is used first. */
const WANT_MS = 2000;

/** Keeps a client in reserve while there is work for clients (docs/internals/start.md, "The client in reserve"). */
export class SpareClient {
  readonly #root: string;
  readonly #enabled: boolean;
  #child: ChildProcess | null = null;
  #timer: NodeJS.Timeout | null = null;
  #halted = false;

  constructor(root: string, enabled: boolean) {
    this.#root = root;
    this.#enabled = enabled;
  }

  get pid(): number | null {
    return this.#child?.pid ?? null;
  }

  /** There is work for clients: one is to be ready soon. */
  want(): void {
    if (!this.#enabled || this.#halted || this.#child !== null || this.#timer !== null) return;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#launch();
    }, WANT_MS).unref();
  }

  #launch(): void {
    const child = spawn(process.execPath, [SPARE_MAIN, this.#root], {
      env: { ...process.env, ...SERVER_ENVIRONMENT },
      cwd: '/',
      stdio: ['pipe', 'ignore', 'inherit'], // it sees our end by its standard input
    });
    this.#child = child;
    child.stdin.on('error', () => {}); // its exit says more
    child.on('error', () => this.#lost(child)); // it could not be started
    child.on('exit', (code) => {
      this.#lost(child);
      if (code === 0) this.want(); // it was used, and has not failed to start
    });
  }

  #lost(child: ChildProcess): void {
    if (this.#child === child) this.#child = null;
  }

  halt(): void {
    this.#halted = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#child?.kill('SIGKILL');
  }
}
