import { closeSync } from 'node:fs';
import type { Archive } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';
import type { StorageAccess } from '../check/index.js';
import type { Logger } from '../metrics/index.js';
import { type ClientContext, type ConnectionState, type KeeperMethods, planeOf } from '../wire/index.js';
import { carry, type KeeperLink } from './carry.js';
import type { Engine } from './engine.js';
import { descriptorPath } from './open-paths.js';

/**
 * Connections taken over side by side, so that one's round trips to the keeper and the FUSE threads overlap another's parsing.
 * The socket that brings descriptors holds ten messages (net.unix.max_dgram_qlen).
 */
const RESTORED_AT_ONCE = 8;

/** What the keeper said of a connection that is being taken over, and its descriptors. */
interface Taken extends Awaited<ReturnType<KeeperMethods['take']>> {
  readonly fuseFd: number;
  readonly archiveFd: number;
}

/** Takes over the connections that another server, or an earlier clipd, has mounted. */
export class Restore {
  readonly #engine: Engine;
  readonly #link: KeeperLink;
  readonly #log: Logger;
  /** What it takes to go on, where a registry must be read first: no other mount waits for that. */
  readonly #late: (() => Promise<void>)[] = [];

  constructor(engine: Engine, link: KeeperLink, log: Logger) {
    this.#engine = engine;
    this.#link = link;
    this.#log = log;
  }

  async run(connections: readonly ConnectionState[]): Promise<void> {
    const waiting = [...connections];
    const takeTurns = async (): Promise<void> => {
      for (let state = waiting.shift(); state !== undefined; state = waiting.shift()) await this.#take(state);
    };
    await Promise.all(Array.from({ length: RESTORED_AT_ONCE }, takeTurns));
    await this.#link.keeper.call('serving', null);
    for (const restore of this.#late) void restore();
  }

  async #take(state: ConnectionState): Promise<void> {
    const said = await this.#link.keeper.call('take', { id: state.id });
    const [fuseFd, archiveFd] = this.#link.fds.take(said.fdToken) as [number, number];
    const restore = (): Promise<void> => this.#restore(state, { ...said, fuseFd, archiveFd });
    if (this.#engine.lacksLayers(descriptorPath(archiveFd))) this.#late.push(restore);
    else await restore();
  }

  async #restore(state: ConnectionState, { client, resumed, carried, fuseFd, archiveFd }: Taken): Promise<void> {
    const engine = this.#engine;
    try {
      const archivePath = descriptorPath(archiveFd);
      await engine.indexLayers({ archivePath, options: state.options, access: lastAccess(client) });
      const treeOnUse = planeOf(state).kind === 'kernel';
      const file = engine.openArchive(archiveFd, state.archivePath, { treeOnUse });
      if (file.archive.identity !== state.identity) {
        file.close();
        throw new ClipError('CONFLICT', `${state.archivePath} is another archive than the one that was mounted`);
      }
      const image = engine.open(file, state.options, client);
      await engine.attach(state, fuseFd, image, resumed, resumed ? null : engine.profilesOf(image));
      if (!carried) await this.#carryAgain(state, file.archive);
      engine.mounts.get(state.id)?.prepare();
      engine.fetchAhead(image, null);
    } catch (error) {
      await engine.detach(state.id);
      closeSync(fuseFd);
      const reason = error instanceof Error ? error.message : String(error);
      this.#log.error(
        { archive: state.archivePath, places: state.places.map((p) => p.path), reason },
        'cannot restore',
      );
      await this.#link.keeper.call('drop', { id: state.id, reason });
    }
  }

  async #carryAgain(connection: ConnectionState, archive: Archive): Promise<void> {
    const tree = await this.#engine.planes.open(archive);
    try {
      await carry(this.#engine, this.#link, connection, tree);
    } finally {
      tree.close();
    }
  }
}

/** How the client that mounted it last reaches the registry, as far as that is known. */
function lastAccess(client: ClientContext): StorageAccess {
  return (client as { ways?: readonly StorageAccess[] }).ways?.[0] ?? {};
}
