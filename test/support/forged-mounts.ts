import { constants, statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { ClipdClient, prepareMount } from '../../src/client/index.js';
import type { Clipctl } from './clipctl.js';
import { readDirect, sha256Of } from './mounted.js';

/** The files of layerToForge(). */
export const FORGED_FILES = ['before', 'etc/sudoers', 'bin/tool', 'empty', 'large'];

/** More than any file of layerToForge(). A forged tree may claim any size. */
const MAX_READ = 4 << 20;

/** What a path that may be a FIFO or a link, and any size, holds at its beginning. */
async function readSome(path: string): Promise<Buffer> {
  const { O_RDONLY, O_DIRECT, O_NONBLOCK, O_NOFOLLOW } = constants;
  const file = await open(path, O_RDONLY | O_DIRECT | O_NONBLOCK | O_NOFOLLOW);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(MAX_READ), 0, MAX_READ, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

/** Mounts of forged archives and of the honest one in one clipd, without a process for each request. */
export class ForgedMounts {
  readonly #clip: Clipctl;
  readonly #client: ClipdClient;
  /** Path → SHA-256 of the honest files. */
  readonly #expected: ReadonlyMap<string, string>;

  constructor(clip: Clipctl, expected: ReadonlyMap<string, string>) {
    this.#clip = clip;
    this.#client = new ClipdClient(clip.path('root'));
    this.#expected = expected;
  }

  /** The clipd must run: a first mount by clipctl starts it. */
  async mount(archivePath: string, name: string): Promise<string> {
    const mountPoint = await this.#clip.place(name);
    await this.#client.mount(await prepareMount({ archivePath, mountPoint }, {}, this.#client.root));
    return mountPoint;
  }

  async unmount(mountPoint: string): Promise<void> {
    await this.#client.unmount({ mountPoint, mode: 'normal' });
  }

  async prune(mounted: boolean): Promise<void> {
    await this.#client.pruneCache({ to: 0, mounted });
  }

  /** Reads all files of a mount that may be forged; a file that cannot be read is null. */
  async readForged(place: string): Promise<Map<string, Buffer | null>> {
    const found = new Map<string, Buffer | null>();
    for (const path of FORGED_FILES) {
      try {
        found.set(path, await readSome(`${place}/${path}`));
      } catch {
        found.set(path, null);
      }
    }
    return found;
  }

  /** @throws Error naming what is not as in the image */
  async checkHonest(place: string): Promise<void> {
    for (const [path, sha256] of this.#expected) {
      if (sha256Of(await readDirect(`${place}/${path}`)) !== sha256) throw new Error(`${path} has other content`);
    }
    const mode = statSync(`${place}/bin/tool`).mode & 0o7777;
    if (mode !== 0o755) throw new Error(`bin/tool has mode ${mode.toString(8)}`);
  }
}
