import { posix } from 'node:path';
import { ClipError, describeContent } from '../bytes/index.js';
import type { FileUser } from '../linux/index.js';
import { EntryColumns, S_IFLNK, S_IFMT, S_IFREG, TarParser } from '../tar/index.js';
import { type LayoutFiles, type OpenFile, openFile } from './layout-files.js';

/** Of headers between members; data is skipped. */
const SCAN_BYTES = 64 * 1024;
/** An image has a few files for each layer. */
const MAX_MEMBERS = 100_000;
/** Of their names, link targets and extended attributes: some 300 bytes a file. */
const MAX_NAME_BYTES = 32 * 1024 * 1024;

interface Member {
  readonly offset: number;
  readonly size: number;
}

/** The regular files of a tar on disk, found by one pass over its headers. Links lead to members of the same tar, if anywhere. */
export class LayoutTar implements LayoutFiles {
  readonly #path: string;
  readonly #user: FileUser | undefined;
  #opened: Promise<{ file: OpenFile; members: ReadonlyMap<string, Member> } | null> | null = null;

  constructor(path: string, user: FileUser | undefined) {
    this.#path = path;
    this.#user = user;
  }

  async open(name: string): Promise<OpenFile | null> {
    this.#opened ??= this.#scan();
    const opened = await this.#opened;
    if (opened === null) {
      this.#opened = null; // it may be there the next time
      throw new ClipError('NOT_FOUND', `there is no image archive ${this.#path}`, { hint: 'check the path' });
    }
    const member = opened.members.get(name);
    if (member === undefined) return null;
    const { file } = opened;
    return {
      size: member.size,
      read: (target, at, length, position) =>
        file.read(target, at, Math.min(length, member.size - position), member.offset + position),
      close: async () => {},
    };
  }

  async #scan(): Promise<{ file: OpenFile; members: ReadonlyMap<string, Member> } | null> {
    const file = await openFile(this.#path, this.#user);
    if (file === null) return null;
    try {
      return { file, members: await this.#members(file) };
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  async #members(file: OpenFile): Promise<ReadonlyMap<string, Member>> {
    const entries = new EntryColumns();
    const parser = new TarParser({ entries });
    const buffer = Buffer.alloc(SCAN_BYTES);
    try {
      for (let at = 0; at < file.size; ) {
        const length = await file.read(buffer, 0, buffer.length, at);
        if (length === 0) break;
        if (at === 0) this.#refuseCompressed(buffer.subarray(0, length));
        parser.push(buffer.subarray(0, length));
        at += length + parser.skipData();
        if (at > file.size) throw new Error(`it ends at byte ${file.size}, inside a file`);
        if (entries.count > MAX_MEMBERS)
          throw new ClipError('LIMIT', `${this.#path} has more than ${MAX_MEMBERS} files`);
        if (entries.arena.length > MAX_NAME_BYTES)
          throw new ClipError('LIMIT', `${this.#path}: the names of its files exceed ${MAX_NAME_BYTES} bytes`);
      }
      parser.finish();
    } catch (cause) {
      if (cause instanceof ClipError && (cause.code === 'LIMIT' || cause.code === 'UNSUPPORTED')) throw cause;
      throw new ClipError('BAD_FORMAT', `${this.#path} is not an image archive: ${(cause as Error).message}`, {
        cause,
        hint: 'save the image again (skopeo copy, docker save)',
      });
    }
    return this.#named(entries, file.size);
  }

  #refuseCompressed(start: Uint8Array): void {
    if ((start[0] === 0x1f && start[1] === 0x8b) || (start[0] === 0x28 && start[1] === 0xb5)) {
      throw new ClipError('UNSUPPORTED', `${this.#path} is compressed as a whole (${describeContent(start)})`, {
        hint: 'decompress it: parts of a compressed archive cannot be read',
      });
    }
  }

  #named(entries: EntryColumns, size: number): ReadonlyMap<string, Member> {
    const members = new Map<string, Member>();
    const links = new Map<string, string>();
    for (let i = 0; i < entries.count; i++) {
      const text = (start: number, end: number): string =>
        Buffer.from(entries.arena.subarray(start, end)).toString('utf8');
      const name = cleaned(text(entries.pathStart(i), entries.pathEnd(i)));
      const type = entries.mode(i) & S_IFMT;
      const target = text(entries.linkStart(i), entries.linkEnd(i));
      if (type === S_IFLNK) links.set(name, cleaned(posix.join(posix.dirname(name), target)));
      else if (entries.isHardLink(i)) links.set(name, cleaned(target));
      else if (type === S_IFREG && entries.extents(i) === null && entries.dataOffset(i) + entries.size(i) <= size) {
        links.delete(name);
        members.set(name, { offset: entries.dataOffset(i), size: entries.size(i) });
      }
    }
    // docker save of old links layers that images share: one step, to a member.
    for (const [name, target] of links) {
      const member = members.get(target);
      if (member !== undefined) members.set(name, member);
    }
    return members;
  }

  async close(): Promise<void> {
    const opened = this.#opened;
    this.#opened = null;
    await (await opened?.catch(() => null))?.file.close();
  }
}

function cleaned(name: string): string {
  return posix.normalize(name).replace(/^(?:\.?\/)+/, '');
}
