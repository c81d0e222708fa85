import { resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ClipError } from '../bytes/index.js';
import { apiHost, parseReference } from './reference.js';

const HEX = 'a'.repeat(64);

describe('references', () => {
  // distribution/reference: normalize_test.go and reference_test.go name the same cases.
  test.each([
    ['python', 'docker.io/library/python:latest'],
    ['python:3.12-slim', 'docker.io/library/python:3.12-slim'],
    ['me/app', 'docker.io/me/app:latest'],
    ['docker.io/python', 'docker.io/library/python:latest'],
    ['index.docker.io/me/app:1', 'docker.io/me/app:1'],
    ['ghcr.io/a/b/c:v1', 'ghcr.io/a/b/c:v1'],
    ['localhost/app', 'localhost/app:latest'],
    ['localhost:5000/app', 'localhost:5000/app:latest'],
    ['127.0.0.1:5000/py:latest', '127.0.0.1:5000/py:latest'],
    ['[::1]:5000/py', '[::1]:5000/py:latest'],
    ['[2001:db8::1]/py:1', '[2001:db8::1]/py:1'],
    ['Registry/app', 'Registry/app:latest'],
    ['host:443/a__b/c-d.e--f:T_a.g-1', 'host:443/a__b/c-d.e--f:T_a.g-1'],
    [`python@sha256:${HEX}`, `docker.io/library/python@sha256:${HEX}`],
    [`host:5000/a:tag@sha256:${HEX}`, `host:5000/a:tag@sha256:${HEX}`],
    ['docker://quay.io/a/b', 'quay.io/a/b:latest'],
    ['  alpine \n', 'docker.io/library/alpine:latest'],
  ])('%s is %s', (text, canonical) => {
    const reference = parseReference(text);
    expect(reference.canonical).toBe(canonical);
    // What is printed means the same thing when it is typed.
    expect(parseReference(reference.canonical)).toEqual(reference);
  });

  test('the digest wins, the tag is kept for people', () => {
    expect(parseReference(`h.io/a:tag@sha256:${HEX}`)).toMatchObject({ tag: 'tag', digest: `sha256:${HEX}` });
    expect(parseReference(`h.io/a@sha256:${HEX}`)).toMatchObject({ tag: null, digest: `sha256:${HEX}` });
  });

  test('Docker Hub answers elsewhere than it is called', () => {
    expect(apiHost('docker.io')).toBe('registry-1.docker.io');
    expect(apiHost('ghcr.io')).toBe('ghcr.io');
  });

  test.each([
    ['oci:/images/py:latest', { path: '/images/py', tag: 'latest', digest: null }],
    ['oci:/images/py', { path: '/images/py', tag: null, digest: null }],
    ['oci:/with:colon/py', { path: '/with:colon/py', tag: null, digest: null }],
    ['oci:/with:colon/py:1.0', { path: '/with:colon/py', tag: '1.0', digest: null }],
    [`oci:/d@sha256:${HEX}`, { path: '/d', tag: null, digest: `sha256:${HEX}` }],
    [`oci:/a@b:t@sha256:${HEX}`, { path: '/a@b', tag: 't', digest: `sha256:${HEX}` }],
    ['oci-archive:/a.tar:t', { form: 'oci-archive', path: '/a.tar', tag: 't', repository: 'oci-archive:/a.tar' }],
    ['oci-archive:/a.tar', { form: 'oci-archive', path: '/a.tar', tag: null }],
    ['docker-archive:/a.tar', { form: 'docker-archive', path: '/a.tar', tag: null }],
    ['docker-archive:/a.tar:py', { path: '/a.tar', tag: 'docker.io/library/py:latest' }],
    ['docker-archive:/a.tar:h.io:5000/x/y:1', { path: '/a.tar', tag: 'h.io:5000/x/y:1' }],
    [`docker-archive:/a.tar@sha256:${HEX}`, { path: '/a.tar', tag: null, digest: `sha256:${HEX}` }],
    ['oci:relative/dir:t', { path: resolve('relative/dir'), tag: 't', digest: null }],
  ])('%s is a layout', (text, expected) => {
    const reference = parseReference(text);
    expect(reference).toMatchObject({ kind: 'layout', ...expected });
    expect(parseReference(reference.canonical)).toEqual(reference);
  });

  test.each([
    ['', /empty/],
    ['Python', /"Python" is not a repository name/],
    ['host.io/Upper', /lower case|not a repository name/],
    ['https://ghcr.io/a', /begins with https:/],
    ['a//b', /a part of the repository name is empty/],
    ['host.io/', /empty/],
    ['a:', /"" is not a tag/],
    ['a:-x', /"-x" is not a tag/],
    [`a:${'x'.repeat(129)}`, /is not a tag/],
    ['a@sha256:short', /is not a digest/],
    [`a@sha256:${HEX.toUpperCase()}`, /is not a digest/],
    [`a@md5:${'a'.repeat(32)}`, /is not a digest/],
    [HEX, /image id/],
    ['host:70000/a', /port/],
    ['-host.io/a', /host name/],
    ['a/../b', /not a repository name/],
    ['a b', /not a repository name/],
    [`host.io/${'a/'.repeat(130)}b`, /longer than 255/],
    ['oci::tag', /no directory/],
    ['oci:', /no directory/],
    ['oci:/d:', /tag is empty/],
    ['oci:/d\0:t', /NUL/],
  ])('%j is refused', (text, message) => {
    let error: unknown;
    try {
      parseReference(text);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(ClipError);
    expect(error).toMatchObject({ code: 'BAD_REFERENCE' });
    expect((error as ClipError).message).toMatch(message);
    expect((error as ClipError).message).not.toContain('\n');
  });
});
