import { closeFd } from '../linux/index.js';
import type { KernelTree } from '../plane/index.js';
import type { ConnectionState, FdSocket, KeeperMethods, Rpc } from '../wire/index.js';
import type { Engine } from './engine.js';

/** The keeper, as a server talks to it: by messages, and by descriptors beside them. */
export interface KeeperLink {
  readonly keeper: Rpc<KeeperMethods>;
  readonly fds: FdSocket;
}

/** Makes the kernel's own mount of an attached connection, and gives it to the keeper. @throws KernelMountError */
export async function carry(
  engine: Engine,
  { keeper, fds }: KeeperLink,
  connection: ConnectionState,
  tree: KernelTree,
): Promise<ConnectionState> {
  const { mount, files } = engine.mountInKernel(connection, tree);
  let fdToken: string;
  try {
    fdToken = fds.send([mount]);
  } finally {
    closeFd(mount);
  }
  return keeper.call('carry', { id: connection.id, fdToken, files });
}
