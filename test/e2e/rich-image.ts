import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { LayoutBuilder } from '../support/layout.js';

export interface RichImage {
  /** "oci:DIR:rich", for skopeo, umoci and clipctl alike. */
  readonly reference: string;
  readonly layout: LayoutBuilder;
  /** Bytes of /data/random.bin, which spans several 1 MiB spans. */
  readonly random: Buffer;
  remove(): void;
}

/** "/данные/мой файл ü.txt": bytes beyond ASCII, and spaces. */
export const UNICODE_FILE = 'данные/мой файл ü.txt';

/**
 * A small image with a bit of everything, made by GNU tar from a directory: a static busybox to run, owners beyond 16 bits,
 * setuid, sticky, xattrs and capabilities, devices, fifo, hard links, times before 1970 and with nanoseconds, names with spaces,
 * beyond ASCII and not UTF-8, and, by layers, whiteouts, an opaque directory, a file replaced, a link over a directory. Needs root.
 */
export function makeRichImage(): RichImage {
  const stage = mkdtempSync(path.join(tmpdir(), 'clip-rich-'));
  const layout = new LayoutBuilder();
  try {
    const random = pseudoRandom(5_000_000);
    const layers = [
      layer(stage, 'base', (at) => base(at, random)),
      layer(stage, 'second', second),
      layer(stage, 'third', third),
    ];
    const config = {
      Env: ['PATH=/bin', 'GREETING=hello'],
      Entrypoint: ['/bin/sh', '-c'],
      Cmd: ['echo $GREETING'],
      WorkingDir: '/data',
    };
    const reference = layout.tag(layout.image(layers, { config, architecture: goArchitecture() }), 'rich');
    return { reference, layout, random, remove: () => layout.remove() };
  } catch (error) {
    layout.remove();
    throw error;
  } finally {
    rmSync(stage, { recursive: true, force: true });
  }
}

function goArchitecture(): string {
  return process.arch === 'x64' ? 'amd64' : process.arch;
}

/** Incompressible and the same each time. */
function pseudoRandom(length: number): Buffer {
  const words = new Uint32Array(Math.ceil(length / 4));
  let state = 0x9e3779b9;
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  return Buffer.from(words.buffer, 0, length);
}

function layer(stage: string, name: string, fill: (at: (...parts: string[]) => string) => void): Buffer {
  const directory = path.join(stage, name);
  mkdirSync(directory);
  fill((...parts) => path.join(directory, ...parts));
  const args = ['--format=pax', '--xattrs', '--xattrs-include=*', '--numeric-owner', '--sort=name', '-C', directory];
  return execFileSync('tar', [...args, '-c', '.'], { maxBuffer: 1 << 28 });
}

function base(at: (...parts: string[]) => string, random: Buffer): void {
  for (const d of ['bin', 'etc', 'data', 'dev', 'proc', 'tmp', 'opaque', 'turned', path.dirname(UNICODE_FILE)])
    mkdirSync(at(d));
  chmodSync(at('tmp'), 0o1777);
  copyFileSync('/usr/bin/busybox', at('bin/busybox'));
  for (const applet of ['sh', 'cat', 'ls', 'sha256sum', 'echo']) symlinkSync('busybox', at('bin', applet));
  writeFileSync(at('etc/os-release'), 'ID=clip-test\n');
  writeFileSync(at('data/random.bin'), random);
  writeFileSync(at('data/empty'), '');
  writeFileSync(at('data/a file with spaces.txt'), 'spaces\n');
  writeFileSync(at(UNICODE_FILE), 'unicode\n');
  writeFileSync(Buffer.concat([Buffer.from(`${at('data')}/not-utf8-`), Buffer.from([0xff, 0xfe])]), 'bytes\n');
  writeFileSync(at('data', 'n'.repeat(255)), 'a name of 255 bytes\n');
  writeFileSync(at('bin/setuid'), '#!/bin/sh\n');
  chownSync(at('bin/setuid'), 1234, 70_000);
  chmodSync(at('bin/setuid'), 0o6755);
  linkSync(at('etc/os-release'), at('etc/os-release.link'));
  linkSync(at('etc/os-release'), at('data/os-release.link'));
  execFileSync('mknod', [at('dev/null'), 'c', '1', '3']);
  execFileSync('mknod', [at('dev/big'), 'b', '259', '300']);
  execFileSync('mkfifo', [at('data/fifo')]);
  execFileSync('setfattr', ['-n', 'user.comment', '-v', 'a comment', at('etc/os-release')]);
  execFileSync('setfattr', ['-n', 'user.empty', at('data')]);
  // CAP_NET_RAW+ep, as setcap writes it (VFS_CAP_REVISION_2).
  const capability = '0x0100000200200000000000000000000000000000';
  execFileSync('setfattr', ['-n', 'security.capability', '-v', capability, at('bin/busybox')]);
  execFileSync('touch', ['-d', '1969-12-31T23:59:58.123456789Z', at('data/empty')]);
  execFileSync('touch', ['-d', '2001-02-03T04:05:06.000000007Z', at('data/a file with spaces.txt')]);
  writeFileSync(at('data/removed'), 'a whiteout takes this away\n');
  writeFileSync(at('data/replaced'), 'first\n');
  writeFileSync(at('opaque/old'), 'hidden by the opaque directory\n');
  writeFileSync(at('turned/inside'), 'the directory becomes a link\n');
}

function second(at: (...parts: string[]) => string): void {
  for (const d of ['data', 'opaque']) mkdirSync(at(d));
  writeFileSync(at('data/.wh.removed'), '');
  writeFileSync(at('data/replaced'), 'second, longer\n');
  writeFileSync(at('opaque/.wh..wh..opq'), '');
  writeFileSync(at('opaque/new'), 'beside the marker\n');
}

function third(at: (...parts: string[]) => string): void {
  symlinkSync('data', at('turned'));
  mkdirSync(at('later'));
  writeFileSync(at('later/file'), 'third\n');
}
