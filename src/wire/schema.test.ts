import { describe, expect, test } from 'vitest';
import { mountRequest, prefetchRequest, stopRequest, unmountRequest, upgradeRequest } from './schema.js';

const good = {
  archivePath: '/a.clip',
  mountPoint: '/mnt',
  mountNamespace: 'mnt:[4026531841]',
  requestId: 'one',
};

describe('what a client may send', () => {
  test('the least, and everything', () => {
    expect(mountRequest(good, 'body')).toEqual(good);
    const full = {
      ...good,
      options: { readahead: false, readTimeout: 1.5, plainHttp: true },
      suid: true,
      dev: false,
      access: { credentials: null },
      daemon: { cacheDir: '/cache', cacheSize: 0, workers: 4 },
    };
    expect(mountRequest(full, 'body')).toEqual(full);
    expect(unmountRequest({ mountPoint: '/mnt', mode: 'lazy' }, 'body')).toEqual({ mountPoint: '/mnt', mode: 'lazy' });
    expect(stopRequest({}, 'body')).toEqual({});
    expect(upgradeRequest({ serverModule: '/x.js' }, 'body')).toEqual({ serverModule: '/x.js' });
  });

  test.each([
    ['no object', [], 'body must be an object'],
    ['nothing', undefined, 'body must be an object'],
    ['a missing field', { ...good, archivePath: undefined }, 'body.archivePath must be an absolute path'],
    ['a relative path', { ...good, mountPoint: 'mnt' }, 'body.mountPoint must be an absolute path'],
    ['a NUL in a path', { ...good, mountPoint: '/m\0nt' }, 'body.mountPoint must be an absolute path'],
    ['a long path', { ...good, mountPoint: `/${'x'.repeat(5000)}` }, 'body.mountPoint must be an absolute path'],
    ['an unknown field', { ...good, sudo: true }, 'body.sudo must be absent'],
    ['an unknown option', { ...good, options: { turbo: true } }, 'body.options.turbo must be absent'],
    ['a wrong type', { ...good, suid: 'yes' }, 'body.suid must be true or false'],
    ['a time out of range', { ...good, options: { readTimeout: 0 } }, 'body.options.readTimeout must be a number'],
    ['no number', { ...good, options: { readTimeout: Number.NaN } }, 'body.options.readTimeout must be a number'],
    ['a prototype', JSON.parse('{"__proto__": 1, "archivePath": "/a"}'), 'body.mountPoint must be an absolute path'],
  ])('%s is refused by name', (_name, body, message) => {
    expect(() => mountRequest(body, 'body')).toThrow(message);
  });

  test('an unknown mode', () => {
    expect(() => unmountRequest({ mountPoint: '/', mode: 'hard' }, 'body')).toThrow('one of normal, lazy, force');
  });

  test('a prefetch wishes for one thing', () => {
    const wish = { mountPoint: '/mnt', paths: ['/app', '*.so'] };
    expect(prefetchRequest(wish, 'body')).toEqual(wish);
    expect(prefetchRequest({ mountPoint: '/mnt' }, 'body')).toEqual({ mountPoint: '/mnt' });
    expect(() => prefetchRequest({ ...wish, profile: true }, 'body')).toThrow(
      'body.paths must be absent beside profile',
    );
    expect(() => prefetchRequest({ ...wish, paths: [] }, 'body')).toThrow('body.paths must be a list of 1 to 10000');
    expect(() => prefetchRequest({ ...wish, paths: ['a', 1] }, 'body')).toThrow('body.paths[1] must be a string');
    expect(() => prefetchRequest({ mountPoint: '/mnt', profile: false }, 'body')).toThrow('must be true, or absent');
  });
});
