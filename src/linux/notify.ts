import * as flags from './flags.js';
import * as sys from './syscalls.js';

const SOCK_DGRAM = 2;

/** Tells systemd about this service (sd_notify(3)): "READY=1", "STOPPING=1". Does nothing outside of a service. */
export function notifySystemd(state: string, env: NodeJS.ProcessEnv = process.env): void {
  const path = env.NOTIFY_SOCKET;
  if (!path) return;
  // struct sockaddr_un; a leading @ stands for the NUL of an abstract address.
  const name = Buffer.from(path.startsWith('@') ? `\0${path.slice(1)}` : path, 'utf8');
  const address = Buffer.alloc(2 + name.length);
  address.writeUInt16LE(flags.AF_UNIX, 0);
  name.copy(address, 2);
  const data = Buffer.from(state, 'utf8');
  const iovec = Buffer.alloc(16);
  iovec.writeBigUInt64LE(BigInt(sys.addressOf(data)), 0);
  iovec.writeBigUInt64LE(BigInt(data.length), 8);
  const header = Buffer.alloc(56); // struct msghdr
  header.writeBigUInt64LE(BigInt(sys.addressOf(address)), 0);
  header.writeUInt32LE(address.length, 8);
  header.writeBigUInt64LE(BigInt(sys.addressOf(iovec)), 16);
  header.writeBigUInt64LE(1n, 24);
  const fd = sys.socket(flags.AF_UNIX, SOCK_DGRAM | flags.SOCK_CLOEXEC);
  if (fd < 0) return;
  // A systemd that does not listen does not matter to the service, which runs on.
  sys.sendmsg(fd, header, flags.MSG_NOSIGNAL);
  sys.close(fd);
}
