import { closeSync, fstatSync, readFileSync } from 'node:fs';
import { ClipError } from '../bytes/index.js';
import {
  bindMountIn,
  check,
  flags,
  inMountNamespace,
  mountNamespaceId,
  mountNamespaceName,
  mountPointIn,
  openMountNamespace,
  openWithoutLinks,
  SystemCallError,
  unmountIn,
} from '../linux/index.js';
import { openRegularFile } from '../paths/index.js';
import { type ConnectionState, type ForeignPlace, foreignName, foreignParts } from '../wire/index.js';

/** A number that no mount has. */
const NO_MOUNT = 2n ** 62n;

/** Numbers of namespaces and mounts are given anew at each boot. */
const boot = (): string => readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();

/**
 * A mount that this keeper made in another mount namespace, a container's. It is known by its number and its namespace's, and nothing of the
 * namespace is held open: it goes when its processes do, and the mount with it.
 */
export class ForeignMount {
  readonly state: ForeignPlace;
  readonly #namespace: bigint;
  readonly #mount: bigint;
  /** "mnt:[4026532281]" */
  readonly #name: string;

  private constructor(state: ForeignPlace, name: string) {
    this.state = state;
    this.#namespace = BigInt(state.namespace);
    this.#mount = BigInt(state.mount);
    this.#name = name;
  }

  /**
   * Shows what is mounted at the anchor at a place of a namespace, too.
   * @param namespace open; the caller closes it
   * @param target the directory, open, or its path in the namespace
   * @throws ClipError
   */
  static bind(
    namespace: number,
    anchor: string,
    target: number | string,
    shown: string,
    { suid, dev }: { readonly suid: boolean; readonly dev: boolean },
  ): ForeignMount {
    const without = (suid ? flags.MOUNT_ATTR_NOSUID : 0) | (dev ? flags.MOUNT_ATTR_NODEV : 0);
    try {
      const id = mountNamespaceId(namespace);
      mountPointIn(id, NO_MOUNT); // whether this kernel can say later what became of it
      const mount = bindMountIn(namespace, anchor, target, shown, without);
      const state = { boot: boot(), namespace: String(id), mount: String(mount) };
      return new ForeignMount(state, mountNamespaceName(namespace));
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new ClipError('UNSUPPORTED', `cannot mount in another mount namespace: ${reason}`, {
        cause,
        hint: FOREIGN_HINT,
      });
    }
  }

  /** One of the list of an earlier clipd; null when the machine was booted since. */
  static listed(state: ForeignPlace, path: string): ForeignMount | null {
    return state.boot === boot() ? new ForeignMount(state, foreignParts(path)?.namespace ?? '') : null;
  }

  /** Null when it is mounted no more. */
  find(): { readonly mountPoint: string } | null {
    const path = mountPointIn(this.#namespace, this.#mount);
    return path === null ? null : { mountPoint: foreignName(this.#name, path) };
  }

  /** Calls `work` with the namespace open. @returns undefined when it has gone */
  inside<T>(work: (namespace: number) => T): T | undefined {
    const namespace = openMountNamespace(this.#namespace);
    if (namespace === null) return undefined;
    try {
      return work(namespace);
    } finally {
      closeSync(namespace);
    }
  }

  /** @throws SystemCallError EBUSY; ClipError CONFLICT when another mount covers it */
  unmount(how: 'normal' | 'lazy'): void {
    const path = mountPointIn(this.#namespace, this.#mount);
    if (path === null) return;
    try {
      this.inside((namespace) => unmountIn(namespace, path, this.#mount, how));
    } catch (cause) {
      if (!(cause instanceof SystemCallError) || cause.code !== 'EINVAL') throw cause;
      const shown = foreignName(this.#name, path);
      const hint = `umount ${path}, there, removes that one; then try again`;
      throw new ClipError('CONFLICT', `${shown} is covered by another mount`, { cause, hint });
    }
  }

  /** Opens a file of the namespace for reading. @returns undefined when the namespace has gone */
  openFile(path: string): number | undefined {
    return this.inside((namespace) =>
      inMountNamespace(namespace, () => check(openWithoutLinks(path, flags.O_NONBLOCK), `open ${path}`)),
    );
  }

  /** Nothing is held. The mount stays. */
  close(): void {}
}

const FOREIGN_HINT =
  'it takes Linux 6.12, and CAP_SYS_ADMIN and CAP_SYS_CHROOT for clipd; else mount on the host, where the container has the directory as rslave';

export const NAMESPACE_GONE = 'its mount namespace has ended, with the container that it was made for';

/** The archive of a connection of an earlier clipd, in whichever namespace its path is. @throws ClipError, Node's error */
export function openListedArchive({ archivePath, places }: ConnectionState): number {
  const foreign = foreignParts(archivePath);
  if (foreign === null) return openRegularFile(archivePath);
  for (const place of places) {
    if (place.foreign === undefined || foreignParts(place.path)?.namespace !== foreign.namespace) continue;
    const fd = ForeignMount.listed(place.foreign, place.path)?.openFile(foreign.path);
    if (fd === undefined) continue;
    if (fstatSync(fd).isFile()) return fd;
    closeSync(fd);
  }
  throw new ClipError('NOT_FOUND', NAMESPACE_GONE);
}
