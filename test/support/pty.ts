import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readlinkSync, writeSync } from 'node:fs';
import { ReadStream } from 'node:tty';
import { check, sys } from '../../src/linux/index.js';

// asm-generic/ioctls.h
const TCGETS = 0x5401;
const TIOCSWINSZ = 0x5414;
const TIOCSPTLCK = 0x40045431;
const TIOCGPTN = 0x80045430;
/** struct termios of the kernel: four flag words, the line discipline and 19 control characters. */
const TERMIOS_BYTES = 36;

/** A pseudo-terminal, and a program that has it as its controlling terminal. */
export class Pty {
  readonly #master: number;
  readonly #slave: number;
  readonly #stream: ReadStream;
  #child: ChildProcess | null = null;
  output = '';

  constructor() {
    this.#master = openSync('/dev/ptmx', 'r+');
    const number = Buffer.alloc(4);
    check(sys.ioctl(this.#master, TIOCSPTLCK, number), 'ioctl TIOCSPTLCK');
    check(sys.ioctl(this.#master, TIOCGPTN, number), 'ioctl TIOCGPTN');
    // Kept open: a terminal whose last descriptor is closed hangs up.
    this.#slave = openSync(`/dev/pts/${number.readUInt32LE()}`, 'r+');
    this.#stream = new ReadStream(this.#master);
    this.#stream.setEncoding('utf8').on('data', (text: string) => {
      this.output += text;
    });
    this.#stream.on('error', () => {}); // EIO: it has been closed
  }

  get path(): string {
    return readlinkSync(`/proc/self/fd/${this.#slave}`);
  }

  /** Runs a program in a session of its own, with this as its terminal. @returns its exit code */
  run(command: readonly string[], env: NodeJS.ProcessEnv): Promise<number | null> {
    const child = spawn('setsid', ['--ctty', '--wait', ...command], {
      env,
      stdio: [this.#slave, this.#slave, this.#slave],
    });
    this.#child = child;
    return new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code) => resolve(code));
    });
  }

  /** As if the user had typed it. */
  type(text: string): void {
    writeSync(this.#master, text);
  }

  /** As if the user had resized the window: the terminal's foreground processes get SIGWINCH. */
  resize(rows: number, columns: number): void {
    const size = Buffer.alloc(8);
    size.writeUInt16LE(rows, 0);
    size.writeUInt16LE(columns, 2);
    check(sys.ioctl(this.#master, TIOCSWINSZ, size), 'ioctl TIOCSWINSZ');
  }

  /** Modes and control characters: raw, echo, … */
  modes(): string {
    const termios = Buffer.alloc(TERMIOS_BYTES);
    check(sys.ioctl(this.#slave, TCGETS, termios), 'ioctl TCGETS');
    return termios.toString('hex');
  }

  close(): void {
    this.#child?.kill('SIGKILL');
    this.#stream.destroy();
    closeSync(this.#slave);
  }
}
