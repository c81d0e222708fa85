import { posix } from 'node:path';
import { inflateRawSync } from 'node:zlib';
import { directoryOf, type Language, type LinkSink, type Programs, ResolverByPath, type SeenFile } from './language.js';

/** The manifest is the first file of a jar, or the second (java.util.jar.JarInputStream). */
const HEAD_BYTES = 32 * 1024;
const MAX_ENTRIES = 8;
const MAX_MANIFEST = 256 * 1024;
/** An end record without a comment, as `jar` writes it (APPNOTE.TXT 4.3.16). */
const END_BYTES = 22;
const [LOCAL, END] = [0x04034b50, 0x06054b50];
const [STORED, DEFLATED] = [0, 8];
/** A jar up to this size is read whole: of a larger one its directory, by which classes are looked up. */
const WHOLE_JAR = 1024 * 1024;
const MAX_DIRECTORY = 16 * 1024 * 1024;
/** The file of all modules of a JDK begins with a header and tables (jdk.internal.jimage.ImageHeader). */
const IMAGE_MAGIC = 0xcafedada;
const IMAGE_HEADER = 28;
const MAX_TABLES = 8 * 1024 * 1024;
const PAGE = 4096;

/** Jars lead to the jars of their class path; the launcher to the virtual machine, that to its archive of classes and its modules. */
export const java: Language = {
  name: 'java',
  endings: ['.jar', '/lib/modules'],
  interpreters: null,
  headBytes: HEAD_BYTES,
  tailBytes: END_BYTES,
  scan: (file) => tablesOfModules(file) ?? tablesOfJar(file),
  resolver: (tree) => new JavaResolver(tree),
};

/** "r", offset and length of a part that is read when the file is opened. */
const part = (offset: number, length: number): string => `r${offset} ${length}`;

function tablesOfModules({ head, size }: SeenFile): string[] | null {
  if (head.length < IMAGE_HEADER || head.readUInt32LE(0) !== IMAGE_MAGIC) return null;
  const [entries, locations, strings] = [16, 20, 24].map((at) => head.readUInt32LE(at)) as [number, number, number];
  return [part(0, Math.min(size, MAX_TABLES, IMAGE_HEADER + 8 * entries + locations + strings))];
}

function tablesOfJar({ head, tail, size }: SeenFile): string[] | null {
  if (head.length < 30 || head.readUInt32LE(0) !== LOCAL || tail.length < END_BYTES) return null;
  const found: string[] = [];
  if (size > WHOLE_JAR && tail.readUInt32LE(0) === END) {
    const [length, offset] = [tail.readUInt32LE(12), tail.readUInt32LE(16)];
    if (offset + length <= size && length <= MAX_DIRECTORY) found.push(part(offset, size - offset), part(0, PAGE));
  }
  for (const path of classPath(head)) found.push(`c${path}`);
  return found;
}

/** `Class-Path` of the manifest: URLs relative to the jar. */
function classPath(head: Buffer): string[] {
  let at = 0;
  for (let i = 0; i < MAX_ENTRIES && at + 30 <= head.length && head.readUInt32LE(at) === LOCAL; i++) {
    const [method, stored] = [head.readUInt16LE(at + 8), head.readUInt32LE(at + 18)];
    const nameEnd = at + 30 + head.readUInt16LE(at + 26);
    const start = nameEnd + head.readUInt16LE(at + 28);
    if (head.toString('latin1', at + 30, nameEnd) === 'META-INF/MANIFEST.MF')
      return namesInManifest(manifest(head.subarray(start), method, stored));
    at = start + stored; // written without its length: that is 0, and the next one is not found
  }
  return [];
}

function manifest(data: Buffer, method: number, stored: number): string {
  if (method === STORED) return data.toString('utf8', 0, Math.min(stored, MAX_MANIFEST));
  if (method !== DEFLATED) return '';
  try {
    return inflateRawSync(data, { maxOutputLength: MAX_MANIFEST }).toString('utf8');
  } catch {
    return ''; // cut off, damaged, or too large
  }
}

function namesInManifest(text: string): string[] {
  // A line of more than 72 bytes goes on in the next one, behind a space.
  const line = /^Class-Path: (.*)$/im.exec(text.replace(/\r\n?/g, '\n').replaceAll('\n ', ''))?.[1] ?? '';
  return line.split(/\s+/).filter((name) => name !== '' && !/[:\0]/.test(name.replace(/^file:/, '')));
}

class JavaResolver extends ResolverByPath {
  link(links: LinkSink, { elf }: Programs): void {
    for (const { path, from, words } of this.files()) {
      const pages = words.filter((word) => word.startsWith('r')).flatMap(pagesOf);
      if (pages.length > 0) links.range(from, pages);
      for (const word of words) {
        if (!word.startsWith('c')) continue;
        const to = this.tree.resolve(posix.resolve(directoryOf(path), word.slice(1).replace(/^file:/, '')));
        if (to >= 0 && to !== from) links.add(from, to);
      }
    }
    for (const { nid, path } of elf) {
      const name = path.slice(path.lastIndexOf('/') + 1);
      if (name === 'libjli.so') this.#link(links, nid, path, ['jvm.cfg', 'server/libjvm.so', '../server/libjvm.so']);
      else if (name === 'libjvm.so') this.#linkMachine(links, nid, path);
    }
  }

  #link(links: LinkSink, from: number, path: string, names: readonly string[]): void {
    for (const name of names) {
      const to = this.tree.resolve(posix.resolve(directoryOf(path), name));
      if (to >= 0) links.add(from, to);
    }
  }

  /** Files of the virtual machine by their places (JDK 8 to today): its archive of classes is mapped, and read, as a whole. */
  #linkMachine(links: LinkSink, nid: number, path: string): void {
    this.#link(links, nid, path, [
      ...['../libjimage.so', '../libjava.so', 'classes.jsa', '../modules', '../libzip.so', '../libverify.so'],
      ...['../../rt.jar', '../libnio.so', '../libnet.so', '../../conf/security/java.security'],
    ]);
    const archive = this.tree.resolve(posix.resolve(directoryOf(path), 'classes.jsa'));
    if (archive >= 0) links.range(archive, [0, Math.ceil(this.tree.size(archive) / PAGE)]);
  }
}

function pagesOf(word: string): number[] {
  const [offset = Number.NaN, length = Number.NaN] = word.slice(1).split(' ').map(Number);
  if (!(offset >= 0 && length > 0 && offset + length < 2 ** 44)) return [];
  const first = Math.floor(offset / PAGE);
  return [first, Math.ceil((offset + length) / PAGE) - first];
}
