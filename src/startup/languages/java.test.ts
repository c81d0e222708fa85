import { expect, test } from 'vitest';
import { jar } from '../../../test/support/jar.js';
import { linksOf } from '../../../test/support/language-links.js';
import { java } from './java.js';

const CLASS_PATH =
  'Manifest-Version: 1.0\r\nClass-Path: b.jar lib/c.jar file:/opt/d.jar htt\r\n p://x/e.jar ../f.jar\r\n';
const modules = (table: number, locations: number, strings: number): string => {
  const bytes = Buffer.alloc(100_000);
  bytes.writeUInt32LE(0xcafedada, 0);
  bytes.writeUInt32LE(table, 16);
  bytes.writeUInt32LE(locations, 20);
  bytes.writeUInt32LE(strings, 24);
  return bytes.toString('latin1');
};

test('a jar leads to its class path; of a large one the directory counts', () => {
  const large = jar('a: b\n', 8, 2_000_000);
  const { links, ranges } = linksOf(java, {
    '/app/a.jar': jar(CLASS_PATH, 8),
    '/app/b.jar': jar(CLASS_PATH, 0),
    '/app/lib/c.jar': large,
    '/opt/d.jar': jar('', 8),
    '/f.jar': 'PK',
    '/g.jar': '',
  });
  const all = ['/app/b.jar', '/app/lib/c.jar', '/opt/d.jar', '/f.jar'];
  expect(Object.fromEntries(links)).toEqual({ '/app/a.jar': all, '/app/b.jar': all.slice(1) });
  const page = Math.floor((large.length - 88) / 4096);
  expect(Object.fromEntries(ranges)).toEqual({ '/app/lib/c.jar': [page, 1, 0, 1] });
});

test('the launcher leads to the virtual machine, that to its libraries, its archive of classes and its modules', () => {
  const home = '/usr/lib/jvm/jdk';
  const elf = [`${home}/lib/libjli.so`, `${home}/lib/server/libjvm.so`];
  const others = ['lib/jvm.cfg', 'lib/server/classes.jsa', 'lib/libjava.so'].map((name) => `${home}/${name}`);
  const files = Object.fromEntries([...elf, ...others].map((path) => [path, 'x'.repeat(5000)]));
  files[`${home}/lib/modules`] = modules(1000, 2000, 3000);
  const { links, ranges } = linksOf(java, files, (find) => elf.map((path) => ({ nid: find(path), path }) as never));
  expect(links.get(elf[0]!)).toEqual([others[0], elf[1]]);
  expect(links.get(elf[1]!)).toEqual([others[2], others[1], `${home}/lib/modules`]);
  expect(Object.fromEntries(ranges)).toEqual({ [others[1]!]: [0, 2], [`${home}/lib/modules`]: [0, 4] });
});

test('forged sizes are bounded', () => {
  const forged = Buffer.from(jar('a: b\n', 8, 2_000_000), 'latin1');
  forged.fill(0xff, forged.length - 10);
  const end = Buffer.from(jar('a: b\n', 8, 2_000_000), 'latin1');
  end.writeUInt32LE(2 ** 32 - 1, end.length - 6);
  const bomb = jar(`${'\n'.repeat(2_000_000)}Class-Path: a.jar\n`, 8);
  const { links, ranges } = linksOf(java, {
    '/a.jar': forged.toString('latin1'),
    '/b.jar': end.toString('latin1'),
    '/c.jar': bomb,
    '/d/lib/modules': modules(2 ** 32 - 1, 2 ** 32 - 1, 2 ** 32 - 1),
  });
  expect(links.size).toBe(0);
  expect(Object.fromEntries(ranges)).toEqual({ '/d/lib/modules': [0, 25] });
});
