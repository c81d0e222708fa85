import { describe, expect, test } from 'vitest';
import { parseChallenges } from './auth.js';

describe('WWW-Authenticate', () => {
  test.each([
    [
      'Bearer realm="https://a/t",service="s",scope="repository:x/y:pull,push"',
      [{ scheme: 'bearer', params: { realm: 'https://a/t', service: 's', scope: 'repository:x/y:pull,push' } }],
    ],
    ['Basic realm="a \\"quoted\\" one"', [{ scheme: 'basic', params: { realm: 'a "quoted" one' } }]],
    [
      'Negotiate, Basic realm=x , BEARER Realm = "r", error="invalid_token"',
      [
        { scheme: 'negotiate', params: {} },
        { scheme: 'basic', params: { realm: 'x' } },
        { scheme: 'bearer', params: { realm: 'r', error: 'invalid_token' } },
      ],
    ],
    ['', []],
    ['"', []],
    [
      'Bearer realm="unterminated',
      [
        { scheme: 'bearer', params: {} },
        { scheme: 'realm', params: {} },
        { scheme: 'unterminated', params: {} },
      ],
    ],
  ])('%s', (header, expected) => {
    expect(parseChallenges(header)).toEqual(expected);
  });
});
