import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { check } from './errno.js';
import * as flags from './flags.js';
import { notifySystemd } from './notify.js';
import * as sys from './syscalls.js';

/** A datagram socket as systemd has it; a name that begins with @ is abstract. */
function listen(name: string): number {
  const path = Buffer.from(name.replace(/^@/, '\0'));
  const address = Buffer.concat([Buffer.from([flags.AF_UNIX, 0]), path]);
  const fd = check(sys.socket(flags.AF_UNIX, 2 | flags.SOCK_CLOEXEC | flags.SOCK_NONBLOCK), 'socket');
  check(sys.bindSocket(fd, address, address.length), 'bind');
  return fd;
}

test.each(['path', 'abstract'])('systemd gets the state at its socket: %s', (kind) => {
  const directory = mkdtempSync(join(tmpdir(), 'clip-notify-'));
  const name = kind === 'path' ? join(directory, 'notify') : `@${directory}`;
  const fd = listen(name);
  try {
    notifySystemd('READY=1', { NOTIFY_SOCKET: name });
    const buffer = Buffer.alloc(100);
    const length = check(sys.read(fd, buffer, buffer.length), 'read');
    expect(buffer.toString('utf8', 0, length)).toBe('READY=1');
  } finally {
    sys.close(fd);
    rmSync(directory, { recursive: true });
  }
});

test('no service, or a socket that has gone: nothing happens', () => {
  notifySystemd('READY=1', {});
  notifySystemd('READY=1', { NOTIFY_SOCKET: '/nonexistent/notify' });
});
