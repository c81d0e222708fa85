import { describe, expect, test } from 'vitest';
import { isLoopback } from './probe.js';
import { proxyFor, proxyFromEnvironment } from './proxy.js';

describe('proxies', () => {
  const of = (url: string, env: Record<string, string>): string | null =>
    proxyFor(new URL(url), proxyFromEnvironment(env));
  const env = { HTTPS_PROXY: 'http://p:3128', HTTP_PROXY: 'q:8080' };
  test('by scheme, never for loopback', () => {
    expect(of('https://ghcr.io/', env)).toBe('http://p:3128');
    expect(of('http://ghcr.io/', env)).toBe('http://q:8080');
    for (const host of ['127.0.0.1:5000', 'localhost', '[::1]:5000', '127.8.9.1', 'a.localhost'])
      expect(of(`https://${host}/`, env)).toBe(null);
    expect(of('https://ghcr.io/', {})).toBe(null);
    expect(of('https://ghcr.io/', { ALL_PROXY: 'socks5://s' })).toBe('socks5://s');
    expect(of('https://ghcr.io/', { ...env, https_proxy: 'http://lower' })).toBe('http://lower');
    // httpoxy
    expect(of('http://ghcr.io/', { HTTP_PROXY: 'http://evil', REQUEST_METHOD: 'GET' })).toBe(null);
  });
  test.each([
    ['*', true],
    ['ghcr.io', true],
    ['GHCR.io', true],
    ['io', true],
    ['.io', true],
    ['*.io', true],
    ['.ghcr.io', false],
    ['hcr.io', false],
    ['ghcr.io:443', true],
    ['ghcr.io:5000', false],
    ['a.b, ghcr.io', true],
    ['', false],
  ])('NO_PROXY=%s', (no, exempt) => {
    expect(of('https://ghcr.io/', { ...env, NO_PROXY: no }) === null).toBe(exempt);
  });
  test.each([
    ['10.1.2.3', true],
    ['10.0.0.0/8', true],
    ['10.1.2.0/30', true],
    ['10.1.3.0/24', false],
    ['10.1.2.0/99', false],
    ['fd00::/8', false],
  ])('NO_PROXY=%s for 10.1.2.3', (no, exempt) => {
    expect(of('https://10.1.2.3/', { ...env, NO_PROXY: no }) === null).toBe(exempt);
  });
  test('loopback by name and number', () => {
    expect(isLoopback('128.0.0.1') || isLoopback('localhost.evil.com') || isLoopback('127.0.0.1.nip.io')).toBe(false);
  });
});
