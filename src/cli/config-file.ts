import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { homedir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { ClipError } from '../bytes/index.js';

/** TOML as it was parsed: keys are names of flags; a table is of a command. */
export type Table = { readonly [key: string]: unknown };

export interface ConfigFile {
  readonly path: string;
  /** null: there is no such file. */
  readonly table: Table | null;
}

/** A file of settings has a few hundred bytes. */
const MAX_BYTES = 64 * 1024;

/** The user's file before the machine's: the first that has a key decides. */
function configPaths(): string[] {
  const home = process.env.HOME || homedir();
  const asked = process.env.XDG_CONFIG_HOME ?? '';
  // The base directory specification: a relative path is invalid, and ignored.
  const base = isAbsolute(asked) ? asked : join(home, '.config');
  return [join(base, 'clip/config.toml'), '/etc/clip/config.toml'];
}

/** @throws ClipError USAGE for a file that another user may write, or that is not TOML */
export async function readConfigFiles(): Promise<readonly ConfigFile[]> {
  const files: ConfigFile[] = [];
  for (const path of configPaths()) {
    const text = readOwn(path);
    files.push({ path, table: text === null ? null : await parse(path, text) });
  }
  return files;
}

async function parse(path: string, text: string): Promise<Table> {
  const { parse: parseToml, TomlError } = await import('smol-toml');
  try {
    return parseToml(text);
  } catch (cause) {
    if (!(cause instanceof TomlError)) throw cause;
    const what = cause.message.split('\n')[0]!.replace(/^Invalid TOML document: /, '');
    throw new ClipError('USAGE', `${path}: line ${cause.line}, column ${cause.column}: ${what}`, {
      cause,
      hint: 'the file is TOML: docs/cli.md, "Settings", has an example',
    });
  }
}

/** Its settings decide where bytes come from and go to: only root and this user may have written it. null: it does not exist. */
function readOwn(path: string): string | null {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return null;
    throw new ClipError('USAGE', `cannot read the settings in ${path}: ${code}`, {
      cause,
      hint: 'make it readable, or remove it',
    });
  }
  try {
    // Of the open file: its name may mean another one a moment later.
    const { mode, uid, size } = fstatSync(fd);
    const own = process.geteuid?.() ?? 0;
    if ((mode & constants.S_IFMT) !== constants.S_IFREG) {
      throw new ClipError('USAGE', `${path} is not a regular file`, { hint: 'remove it, or put the settings there' });
    }
    if (uid !== 0 && uid !== own) {
      throw new ClipError('USAGE', `${path} belongs to user ${uid}, neither to root nor to this user (${own})`, {
        hint: `chown ${own} ${path}`,
      });
    }
    if ((mode & 0o022) !== 0) {
      const shown = (mode & 0o7777).toString(8).padStart(4, '0');
      throw new ClipError('USAGE', `${path} has mode ${shown}: other users may write it`, {
        hint: `chmod go-w ${path}`,
      });
    }
    if (size > MAX_BYTES) {
      throw new ClipError('USAGE', `${path} has ${size} bytes; settings take at most ${MAX_BYTES}`, {
        hint: 'look at what it holds',
      });
    }
    const bytes = Buffer.alloc(size);
    return bytes.toString('utf8', 0, readSync(fd, bytes, 0, size, 0));
  } finally {
    closeSync(fd);
  }
}
