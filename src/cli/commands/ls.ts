import type { Command } from 'commander';
import type { Nid } from '../../bytes/index.js';
import { ClipError, printable, printableJson } from '../../bytes/index.js';
import {
  type ErofsReader,
  type FileType,
  fileType,
  InodeView,
  S_IFBLK,
  S_IFCHR,
  S_IFMT,
  WalkLimit,
} from '../../erofs/index.js';
import { addImageFlags, archiveOf, type ImageFlags } from '../image-flags.js';
import { archiveOrImage } from '../operand.js';

interface Flags extends ImageFlags {
  readonly long?: boolean;
  readonly recursive?: boolean;
}

interface Entry {
  readonly name: Uint8Array;
  readonly nid: Nid;
}

/** The first column of `ls -l`. */
const LETTERS: Readonly<Record<FileType, string>> = {
  file: '-',
  directory: 'd',
  symlink: 'l',
  'character device': 'c',
  'block device': 'b',
  fifo: 'p',
  socket: 's',
};

/** Output is written in pieces of this size: one write per line would make `ls -lR` of an image take seconds. */
const FLUSH_BYTES = 64 * 1024;
const SLASH = 0x2f;
const text = (s: string): Uint8Array => Buffer.from(s, 'utf8');

/** "rwsr-x--T", as ls(1) has it. */
function permissions(mode: number): string {
  const triple = (bits: number, special: boolean, letter: string): string => {
    const x = (bits & 1) !== 0;
    const last = special ? (x ? letter : letter.toUpperCase()) : x ? 'x' : '-';
    return `${bits & 4 ? 'r' : '-'}${bits & 2 ? 'w' : '-'}${last}`;
  };
  const user = triple((mode >> 6) & 7, (mode & 0o4000) !== 0, 's');
  const group = triple((mode >> 3) & 7, (mode & 0o2000) !== 0, 's');
  return user + group + triple(mode & 7, (mode & 0o1000) !== 0, 't');
}

function time(seconds: number): string {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? `@${seconds}` : date.toISOString().slice(0, 16).replace('T', ' ');
}

class Lister {
  readonly #reader: ErofsReader;
  readonly #inode = new InodeView();
  readonly #flags: Flags;
  readonly #raw: boolean;
  #out: Uint8Array[] = [];
  #bytes = 0;
  #firstJson = true;

  constructor(reader: ErofsReader, flags: Flags) {
    this.#reader = reader;
    this.#flags = flags;
    this.#raw = !process.stdout.isTTY;
  }

  #write(bytes: Uint8Array): void {
    this.#out.push(bytes);
    this.#bytes += bytes.length;
    if (this.#bytes >= FLUSH_BYTES) this.flush();
  }

  flush(): void {
    if (this.#bytes > 0) process.stdout.write(Buffer.concat(this.#out));
    this.#out = [];
    this.#bytes = 0;
  }

  /** A file is listed itself, a directory by its contents. */
  list(path: Uint8Array, nid: Nid): void {
    if (this.#flags.json) this.#write(text('['));
    this.#reader.inode(nid, this.#inode);
    if (this.#inode.isDirectory) this.#directory(path, nid);
    else this.#print([{ name: path, nid }], new Uint8Array(0));
    if (this.#flags.json) this.#write(text(this.#firstJson ? ']\n' : '\n]\n'));
    this.flush();
  }

  #directory(path: Uint8Array, root: number): void {
    const pending: { path: Uint8Array; nid: Nid }[] = [{ path, nid: root }];
    const limit = new WalkLimit(this.#reader);
    const headers = this.#flags.recursive === true && !this.#flags.json;
    for (let first = true; ; first = false) {
      const next = pending.pop();
      if (next === undefined) return;
      const entries = this.#entries(next.nid);
      limit.visit(entries.length);
      if (headers) this.#write(Buffer.concat([text(first ? '' : '\n'), this.#name(next.path), text(':\n')]));
      this.#print(entries, next.path);
      if (!this.#flags.recursive) return;
      for (const entry of entries.reverse()) {
        this.#reader.inode(entry.nid, this.#inode);
        if (this.#inode.isDirectory) pending.push({ path: join(next.path, entry.name), nid: entry.nid });
      }
    }
  }

  #entries(nid: Nid): Entry[] {
    const entries: Entry[] = [];
    const { image } = this.#reader;
    this.#reader.readdir(nid, 0, (child, _type, start, end) => {
      const name = new Uint8Array(image.subarray(start, end));
      const dots = name.every((byte) => byte === 0x2e) && name.length <= 2;
      if (!dots) entries.push({ name, nid: child });
      return true;
    });
    return entries;
  }

  #name(name: Uint8Array): Uint8Array {
    return this.#raw ? name : text(printable(name));
  }

  #print(entries: readonly Entry[], directory: Uint8Array): void {
    if (this.#flags.json) {
      for (const entry of entries) this.#printJson(entry, directory);
    } else if (this.#flags.long) this.#printLong(entries);
    else for (const { name } of entries) this.#write(Buffer.concat([this.#name(name), text('\n')]));
  }

  #printLong(entries: readonly Entry[]): void {
    const inode = this.#inode;
    const rows = entries.map(({ name, nid }) => {
      this.#reader.inode(nid, inode);
      const device = (inode.mode & S_IFMT) === S_IFCHR || (inode.mode & S_IFMT) === S_IFBLK;
      const size = device ? `${inode.rdevMajor}, ${inode.rdevMinor}` : String(inode.size);
      const mode = LETTERS[fileType(inode.mode)] + permissions(inode.mode);
      const columns = [mode, String(inode.nlink), String(inode.uid), String(inode.gid), size, time(inode.mtime)];
      const target = inode.isSymlink ? [text(' -> '), this.#name(this.#reader.readlink(nid))] : [];
      return { columns, name: Buffer.concat([this.#name(name), ...target]) };
    });
    const widths = [0, 1, 2, 3, 4, 5].map((i) => rows.reduce((most, row) => Math.max(most, row.columns[i]!.length), 0));
    for (const { columns, name } of rows) {
      const line = columns.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join(' ');
      this.#write(Buffer.concat([text(`${line} `), name, text('\n')]));
    }
  }

  #printJson({ name, nid }: Entry, directory: Uint8Array): void {
    const inode = this.#inode;
    this.#reader.inode(nid, inode);
    const { mode, uid, gid, size, nlink, mtime, mtimeNsec } = inode;
    const path = directory.length === 0 ? name : join(directory, name);
    const value = {
      ...bytesField('path', path),
      type: fileType(mode),
      mode: `0${(mode & 0o7777).toString(8)}`,
      nlink,
      uid,
      gid,
      size,
      mtime,
      mtimeNsec,
      nid,
      ...(inode.isSymlink ? bytesField('target', this.#reader.readlink(nid)) : {}),
      ...(inode.rdev === 0 ? {} : { major: inode.rdevMajor, minor: inode.rdevMinor }),
    };
    this.#write(text(`${this.#firstJson ? '' : ','}\n  ${printableJson(value)}`));
    this.#firstJson = false;
  }
}

/** JSON strings are Unicode: a name that is not UTF-8 is written as base64, under another key. */
function bytesField(key: string, bytes: Uint8Array): Record<string, string> {
  try {
    return { [key]: new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes) };
  } catch {
    return { [`${key}Base64`]: Buffer.from(bytes).toString('base64') };
  }
}

function join(directory: Uint8Array, name: Uint8Array): Uint8Array {
  const slash = directory.length > 0 && directory[directory.length - 1] !== SLASH;
  return Buffer.concat(slash ? [directory, text('/'), name] : [directory, name]);
}

async function run(pathText: string | undefined, flags: Flags): Promise<void> {
  const [{ ArchiveFile }, { ErofsReader, resolvePath }] = await Promise.all([
    import('../../check/index.js'),
    import('../../erofs/index.js'),
  ]);
  const clip = await archiveOf(flags);
  const file = ArchiveFile.open(clip);
  try {
    const reader = new ErofsReader(file.archive.tree);
    const path = text(pathText ?? '/');
    const nid = resolvePath(reader, path, !flags.long);
    if (nid < 0) {
      throw new ClipError('NOT_FOUND', `no ${pathText} in ${clip}`, {
        hint: `see: clipctl ls -R --clip ${clip}`,
      });
    }
    new Lister(reader, flags).list(path, nid);
  } finally {
    file.close();
  }
}

export function registerLs(program: Command): void {
  const command = program
    .command('ls')
    .description('list the files of an archive')
    .addArgument(archiveOrImage())
    .argument('[path]', 'file or directory in the image (default: /)')
    .option('-l, --long', 'also print mode, links, owner, group, size, time (UTC) and link target')
    .option('-R, --recursive', 'also list the directories below');
  addImageFlags(command).action((path: string | undefined, flags: Flags) => run(path, flags));
}
