import type { LayerIndex } from '../bytes/index.js';
import { ClipError } from '../bytes/index.js';
import { ENTRIES_MAX, type EntryColumns, printable, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from '../tar/index.js';
import { HardLinks } from './hard-links.js';
import {
  DEPTH_MAX,
  FOLLOW_MAX,
  IMPLIED_BASE,
  IMPLIED_PER_ENTRY,
  NAME_MAX,
  PATH_MAX,
  STEPS_PER_ENTRY,
  SYMLINK_MAX,
} from './limits.js';
import { type Components, equalBytes, isDot, isDotDot, pathLength, splitPath, startsWith } from './path.js';
import { IMPLICIT, NONE, TreeStore } from './store.js';
import { Tree } from './tree.js';
import { Whiteouts } from './whiteouts.js';

const WHITEOUT = Buffer.from('.wh.', 'latin1');
const AUFS = Buffer.from('.wh..wh.', 'latin1');
const OPAQUE = Buffer.from('.wh..wh..opq', 'latin1');
const PLNK = Buffer.from('.wh..wh.plnk', 'latin1');
/** Results of resolving a directory that are no inode. */
const MISSING = -1;
const IGNORED = -2;

/** The reason to walk a path: to put an entry there, to find the file of a whiteout, or to find a hard link's target. */
type Purpose = 'entry' | 'whiteout' | 'target';

/**
 * Applies layers, base first, to one tree, by the OCI image-spec (layer.md). Tools differ in places; this follows
 * docs/architecture.md, "The tree is an EROFS image": a whiteout acts on lower layers only, wherever it stands in its own layer; a
 * symlink made earlier in the same layer is followed, inside the root; a symlink or file of a lower layer at the place of a
 * directory is hidden by a real directory.
 */
export class TreeBuilder {
  readonly #store = new TreeStore();
  readonly #root: number;
  readonly #literal: boolean;
  #layer = 0;
  #entries!: EntryColumns;
  #whiteouts!: Whiteouts;
  #hardLinks!: HardLinks;
  /** By base name: aufs keeps the data of hard-linked files in /.wh..wh.plnk, and its hard links point there. */
  #plnk = new Map<string, number>();
  #namelessEntries = 0;
  #steps = 0;
  #stepLimit = 0;
  /** Entries of all layers, and directories of this one that only paths name. */
  #total = 0;
  #implied = 0;

  // The directory of the last path: most entries share it with their predecessor.
  #cachedStart = 0;
  #cachedEnd = -1;
  #cachedDirectory = MISSING;
  /** Bytes of its path, with a slash behind each name. */
  #cachedLength = 0;

  readonly #components: Components = [];
  readonly #todo: { arena: Uint8Array; start: number; end: number }[] = [];
  readonly #stack: number[] = [];

  /**
   * @param options `literal`: the entries are a whole tree that was walked, not a layer. Names that begin with ".wh." are then
   * files like others, and the root is as its entry says.
   */
  constructor(options: { readonly literal?: boolean } = {}) {
    this.#literal = options.literal ?? false;
    this.#root = this.#store.addInode(IMPLICIT, 0);
    this.#store.inodeLinks[this.#root] = 1;
  }

  /**
   * @param layerIndex  0 for the base; layers must come in order, all of them
   * @throws ClipError BAD_FORMAT naming the layer and the entry, LIMIT
   */
  applyLayer(layerIndex: LayerIndex, entries: EntryColumns): void {
    const store = this.#store;
    if (layerIndex !== store.layers.length || layerIndex >= IMPLICIT)
      throw new RangeError(`layer ${layerIndex} after ${store.layers.length} layers`);
    this.#total += entries.count;
    if (this.#total > ENTRIES_MAX)
      throw new ClipError(
        'LIMIT',
        `layers 1 to ${layerIndex + 1} have ${this.#total} entries, at most ${ENTRIES_MAX}`,
        {
          hint: 'split the image: an index of so many files would take gigabytes of memory',
        },
      );
    store.layers.push(entries);
    this.#layer = layerIndex;
    this.#entries = entries;
    this.#whiteouts = new Whiteouts(store, layerIndex);
    this.#hardLinks = new HardLinks(
      store,
      layerIndex,
      (start, end) => this.#findTarget(start, end),
      (i, detail) => this.#fail(i, detail),
    );
    this.#plnk.clear();
    this.#steps = 0;
    this.#implied = 0;
    this.#stepLimit = 1_000_000 + entries.count * STEPS_PER_ENTRY + entries.arena.length;
    this.#forgetDirectory();
    for (let i = 0; i < entries.count; i++) this.#apply(i);
    this.#hardLinks.resolve();
    // Last, so that a hard link finds a file of a lower layer that this layer deletes.
    this.#whiteouts.apply();
  }

  finish(): Tree {
    return new Tree(this.#store, this.#root, this.#namelessEntries);
  }

  #fail(entry: number, detail: string): never {
    const e = this.#entries;
    const path = printable(e.arena.subarray(e.pathStart(entry), e.pathEnd(entry)));
    throw new ClipError('BAD_FORMAT', `layer ${this.#layer + 1}, tar entry ${entry + 1} ${path}: ${detail}`, {
      hint: 'container runtimes cannot unpack such a layer: build the image again',
    });
  }

  #apply(i: number): void {
    const e = this.#entries;
    const { arena } = e;
    const start = e.pathStart(i);
    let end = e.pathEnd(i);
    while (end > start && arena[end - 1] === 0x2f) end--;
    let base = end;
    while (base > start && arena[base - 1] !== 0x2f) base--;
    if (base === end || isDot(arena, base, end) || isDotDot(arena, base, end)) {
      // The path ends in no name (a slash, "." or ".."): clean it and take its last name.
      splitPath(arena, start, end, true, this.#components);
      if (this.#components.length === 0) {
        // containerd, moby and containers/storage skip the entry of the root, of any type: the root stays as it was made.
        if (this.#literal && (e.mode(i) & S_IFMT) === S_IFDIR) this.#store.describe(this.#root, this.#layer, i);
        else if ((e.mode(i) & S_IFMT) !== S_IFDIR) this.#namelessEntries++;
        return;
      }
      base = this.#components.at(-2)!;
      end = this.#components.at(-1)!;
    }
    const isWhiteout = !this.#literal && arena[base] === 0x2e && startsWith(arena, base, end, WHITEOUT);
    const directory = this.#parentOf(i, start, base, end, isWhiteout ? 'whiteout' : 'entry');
    if (directory === IGNORED) {
      this.#ignore(i, base, end);
      return;
    }
    if (end - base > NAME_MAX) this.#fail(i, `a name of ${end - base} bytes, at most ${NAME_MAX}`);
    if (isWhiteout) {
      this.#applyWhiteout(i, directory, base, end);
      return;
    }
    if (e.isHardLink(i)) this.#applyHardLink(i, directory, base, end);
    else this.#place(i, directory, base, end);
  }

  #ignore(i: number, base: number, end: number): void {
    const e = this.#entries;
    if ((e.mode(i) & S_IFMT) === S_IFREG) this.#plnk.set(this.#text(base, end), this.#store.addInode(this.#layer, i));
  }

  #text(start: number, end: number): string {
    return Buffer.from(this.#entries.arena.subarray(start, end)).toString('latin1');
  }

  #applyWhiteout(i: number, directory: number, base: number, end: number): void {
    const { arena } = this.#entries;
    if (equalBytes(arena, base, end, OPAQUE, 0, OPAQUE.length)) {
      if (directory >= 0) this.#whiteouts.addOpaque(directory);
    } else if (!startsWith(arena, base, end, AUFS)) {
      const name = base + WHITEOUT.length;
      if (name === end || isDot(arena, name, end) || isDotDot(arena, name, end))
        this.#fail(i, 'a whiteout that names no file');
      if (directory >= 0) this.#whiteouts.add(directory, name, end);
    }
  }

  /** Puts a file, directory, symlink, device or fifo at its name. It replaces what is there, unless both are directories. */
  #place(i: number, directory: number, base: number, end: number): void {
    const store = this.#store;
    const type = this.#entries.mode(i) & S_IFMT;
    if (type === S_IFLNK) {
      const length = this.#entries.linkEnd(i) - this.#entries.linkStart(i);
      if (length === 0 || length > SYMLINK_MAX)
        this.#fail(i, `a symlink target of ${length} bytes, expected 1 to ${SYMLINK_MAX}`);
    }
    const dentry = store.find(directory, this.#entries.arena, base, end);
    if (dentry === NONE) {
      const inode = store.addInode(this.#layer, i);
      store.addDentry(directory, this.#layer, base, end, inode);
      if (type === S_IFDIR) store.inodeTouched[inode] = this.#layer + 1;
      return;
    }
    const old = store.dentryInode[dentry]!;
    store.claim(dentry, this.#layer, base);
    if (type === S_IFDIR && store.isDirectory(old)) {
      store.inodeLayer[old] = this.#layer;
      store.inodeEntry[old] = i;
      store.inodeTouched[old] = this.#layer + 1;
      return;
    }
    const inode = store.addInode(this.#layer, i);
    if (type === S_IFDIR) store.inodeTouched[inode] = this.#layer + 1;
    store.replace(dentry, inode);
    this.#forgetDirectory();
  }

  #applyHardLink(i: number, directory: number, base: number, end: number): void {
    const store = this.#store;
    const e = this.#entries;
    const target = this.#findTarget(e.linkStart(i), e.linkEnd(i));
    if (target >= 0 && store.isDirectory(target)) this.#fail(i, 'a hard link to a directory');
    const inode = target >= 0 && !this.#hardLinks.isPending(target) ? target : this.#hardLinks.addPending(i);
    let dentry = store.find(directory, e.arena, base, end);
    if (dentry === NONE) dentry = store.addDentry(directory, this.#layer, base, end, inode);
    else {
      store.claim(dentry, this.#layer, base);
      store.replace(dentry, inode);
      this.#forgetDirectory();
    }
    this.#hardLinks.setName(inode, dentry);
  }

  /** The inode of a hard link's target, or MISSING. Symlinks on the way are followed, a symlink at its end is not. */
  #findTarget(start: number, end: number): number {
    const { arena } = this.#entries;
    const components: Components = [];
    splitPath(arena, start, end, true, components);
    if (components.length === 0) return this.#root;
    if (
      !this.#literal &&
      components.length === 4 &&
      equalBytes(arena, components[0]!, components[1]!, PLNK, 0, PLNK.length)
    ) {
      return this.#plnk.get(this.#text(components[2]!, components[3]!)) ?? MISSING;
    }
    const to = components.pop()!;
    const from = components.pop()!;
    const directory = this.#walk(0, components, 'target');
    if (directory < 0) return MISSING;
    const dentry = this.#store.find(directory, arena, from, to);
    return dentry === NONE ? MISSING : this.#store.dentryInode[dentry]!;
  }

  /** The directory that holds the name from `base` to `end`. */
  #parentOf(i: number, start: number, base: number, end: number, purpose: Purpose): number {
    const { arena } = this.#entries;
    if (equalBytes(arena, start, base, arena, this.#cachedStart, this.#cachedEnd)) {
      this.#checkPath(i, this.#cachedLength + end - base);
      return this.#cachedDirectory;
    }
    splitPath(arena, start, base, true, this.#components);
    const length = pathLength(this.#components);
    this.#checkPath(i, length + end - base);
    const directory = this.#walk(i, this.#components, purpose);
    // A whiteout makes no directories and does not touch those on its way: an entry may need another result.
    if (purpose === 'whiteout') return directory;
    this.#cachedStart = start;
    this.#cachedEnd = base;
    this.#cachedDirectory = directory;
    this.#cachedLength = length;
    return directory;
  }

  #checkPath(i: number, length: number): void {
    if (length > PATH_MAX) this.#fail(i, `a path of ${length} bytes, at most ${PATH_MAX}`);
  }

  #forgetDirectory(): void {
    this.#cachedStart = 0;
    this.#cachedEnd = -1;
  }

  /**
   * Walks down from the root.
   * - 'entry': directories that are missing or hidden are made, and only symlinks of this layer are followed;
   * - 'whiteout': the same, but below a missing name or a file there is nothing to hide, so nothing is made (as umoci has it);
   * - 'target': nothing is made, and all symlinks are followed.
   */
  #walk(i: number, components: Components, purpose: Purpose): number {
    const store = this.#store;
    const stack = this.#stack;
    const todo = this.#todo;
    const touched = this.#layer + 1;
    stack.length = 0;
    stack.push(this.#root);
    todo.length = 0;
    this.#push(this.#entries.arena, components);
    if (purpose === 'entry') store.inodeTouched[this.#root] = touched;
    let followed = 0;
    for (let next = todo.pop(); next !== undefined; next = todo.pop()) {
      const { arena, start, end } = next;
      if (++this.#steps > this.#stepLimit)
        throw new ClipError('LIMIT', `layer ${this.#layer + 1}: paths need more than ${this.#stepLimit} steps`, {
          hint: 'its symbolic links refer to each other: no image builder writes such a layer',
        });
      if (isDotDot(arena, start, end)) {
        if (stack.length > 1) stack.pop();
        continue;
      }
      if (!this.#literal && arena[start] === 0x2e && startsWith(arena, start, end, AUFS))
        return purpose === 'target' ? MISSING : IGNORED;
      const directory = stack.at(-1)!;
      const dentry = store.find(directory, arena, start, end);
      if (dentry === NONE) {
        if (purpose !== 'entry') return MISSING;
        if (end - start > NAME_MAX) this.#fail(i, `a name of ${end - start} bytes, at most ${NAME_MAX}`);
        const made = this.#makeDirectory(i);
        store.addDentry(directory, this.#layer, start, end, made);
        stack.push(made);
        continue;
      }
      const inode = store.dentryInode[dentry]!;
      const type = store.mode(inode) & S_IFMT;
      // A hard link of this layer to a lower layer's symlink is not a symlink *made* in this layer.
      const own =
        store.dentryLayer[dentry] === this.#layer && (type !== S_IFLNK || store.inodeLayer[inode] === this.#layer);
      if (type === S_IFDIR) {
        if (purpose === 'entry') store.inodeTouched[inode] = touched;
        stack.push(inode);
      } else if (type === S_IFLNK && (own || purpose === 'target')) {
        if (++followed > FOLLOW_MAX) {
          if (purpose !== 'entry') return MISSING;
          this.#fail(i, `more than ${FOLLOW_MAX} symlinks on its path`);
        }
        const source = store.layers[store.inodeLayer[inode]!]!;
        const link = source.linkStart(store.inodeEntry[inode]!);
        const target: Components = [];
        splitPath(source.arena, link, source.linkEnd(store.inodeEntry[inode]!), false, target);
        // An absolute target starts at the image's root, not at the host's.
        if (source.arena[link] === 0x2f) stack.length = 1;
        this.#push(source.arena, target);
      } else if (purpose === 'target') return MISSING;
      else if (own) {
        if (purpose === 'whiteout') return MISSING;
        this.#fail(i, 'its parent is not a directory in the same layer');
      } else if (purpose === 'whiteout' && type !== S_IFLNK) return MISSING;
      else {
        const made = this.#makeDirectory(i);
        store.replace(dentry, made);
        store.claim(dentry, this.#layer, start);
        stack.push(made);
      }
    }
    return stack.at(-1)!;
  }

  #push(arena: Uint8Array, components: Components): void {
    for (let c = components.length - 2; c >= 0; c -= 2)
      this.#todo.push({ arena, start: components[c]!, end: components[c + 1]! });
  }

  /**
   * A directory at the end of the stack, for entry `i`. Its name comes from this layer's arena: for entries and whiteouts,
   * symlinks of other layers are not followed.
   */
  #makeDirectory(i: number): number {
    if (this.#stack.length > DEPTH_MAX)
      this.#fail(i, `a directory ${this.#stack.length} levels deep, at most ${DEPTH_MAX}`);
    const limit = IMPLIED_BASE + IMPLIED_PER_ENTRY * this.#entries.count;
    if (++this.#implied > limit)
      throw new ClipError('LIMIT', `layer ${this.#layer + 1}: its paths imply more than ${limit} directories`, {
        hint: 'build the layer with an entry for each directory, as image builders do',
      });
    const made = this.#store.addInode(IMPLICIT, 0);
    this.#store.inodeTouched[made] = this.#layer + 1;
    return made;
  }
}
