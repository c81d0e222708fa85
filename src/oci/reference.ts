import { resolve } from 'node:path';
import { ClipError } from '../bytes/index.js';
import { isDigest } from './digest.js';

export interface RegistryReference {
  readonly kind: 'registry';
  /** "host[:port]", "docker.io" for Docker Hub. */
  readonly registry: string;
  /** "library/python" */
  readonly repository: string;
  readonly tag: string | null;
  /** Wins over the tag when both are given, as in Docker. */
  readonly digest: string | null;
  /** With every default filled in. */
  readonly canonical: string;
}

export interface LayoutReference {
  readonly kind: 'layout';
  /** A directory, a tar of one, or what docker save writes. */
  readonly form: 'oci' | 'oci-archive' | 'docker-archive';
  /** Of the directory or the file; absolute. */
  readonly path: string;
  /** What an archive remembers as its repository: the path, with the form before it unless it is a directory. */
  readonly repository: string;
  /** Of docker-archive: the canonical name of an image in a registry. */
  readonly tag: string | null;
  readonly digest: string | null;
  readonly canonical: string;
}

export type Reference = RegistryReference | LayoutReference;

// The grammar of distribution/reference, regexp.go. Lengths: a name has at most 255 characters, a tag 128.
const DOMAIN_LABEL = '(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])';
const DOMAIN = new RegExp(`^(?:${DOMAIN_LABEL}(?:\\.${DOMAIN_LABEL})*\\.?|\\[[0-9a-fA-F:.]+\\])(?::[0-9]{1,5})?$`);
const COMPONENT = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const MAX_NAME = 255;

const SHAPE =
  'write [HOST[:PORT]/]NAME[:TAG][@DIGEST], oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME]';

function bad(text: string, why: string, hint = SHAPE): never {
  throw new ClipError('BAD_REFERENCE', `"${text}" is not an image reference: ${why}`, { hint });
}

/** Splits "…@sha256:…" off the end. */
function takeDigest(text: string, whole: string): { rest: string; digest: string | null } {
  const at = text.indexOf('@');
  if (at < 0) return { rest: text, digest: null };
  const digest = text.slice(at + 1);
  if (!isDigest(digest)) bad(whole, `"${digest}" is not a digest`, 'a digest is sha256: and 64 lower-case hex digits');
  return { rest: text.slice(0, at), digest };
}

/** A tag after the last ':' of the last path component, if there is one. */
function takeTag(text: string): { rest: string; tag: string | null } {
  const colon = text.lastIndexOf(':');
  if (colon <= text.lastIndexOf('/')) return { rest: text, tag: null };
  return { rest: text.slice(0, colon), tag: text.slice(colon + 1) };
}

function parseLayout(text: string, form: LayoutReference['form']): LayoutReference {
  const what = form === 'oci' ? 'directory' : 'file';
  // Only a digest at the very end is one: directories may have '@' in their names.
  const match = /^[a-z-]+:(.*?)(?:@(sha(?:256|512):[0-9a-f]+))?$/s.exec(text);
  const digest = match?.[2] ?? null;
  if (digest !== null && !isDigest(digest)) bad(text, `"${digest}" is not a digest`);
  const { rest, tag: name } = form === 'docker-archive' ? takeName(match?.[1] ?? '') : takeTag(match?.[1] ?? '');
  if (rest === '') bad(text, `no ${what}`, form === 'oci' ? 'write oci:DIR:TAG' : `write ${form}:FILE`);
  if (rest.includes('\0')) bad(text, `a NUL byte in the ${what}`);
  if (name === '') bad(text, 'the tag is empty');
  const path = resolve(rest);
  const tag = name !== null && form === 'docker-archive' ? parseReference(name).canonical : name;
  const repository = form === 'oci' ? path : `${form}:${path}`;
  const suffix = `${tag === null ? '' : `:${tag}`}${digest === null ? '' : `@${digest}`}`;
  return { kind: 'layout', form, path, repository, tag, digest, canonical: `${form}:${path}${suffix}` };
}

/** A name after the first ':': it may have a host, a port and a tag of its own. */
function takeName(text: string): { rest: string; tag: string | null } {
  const colon = text.indexOf(':');
  return colon < 0 ? { rest: text, tag: null } : { rest: text.slice(0, colon), tag: text.slice(colon + 1) };
}

/** The reference that an archive's layers are found by: those of one manifest, whatever its tag means by now. */
export function originReference(origin: { registry: string; repository: string; manifestDigest: string }): string {
  const { registry, repository, manifestDigest } = origin;
  if (registry !== '') return `${registry}/${repository}@${manifestDigest}`;
  return `${repository.startsWith('/') ? 'oci:' : ''}${repository}@${manifestDigest}`;
}

/**
 * Parses what users write, with Docker's defaults: "python" is docker.io/library/python:latest. The first component is a
 * host if it has a '.', a ':' or a capital letter in it, or is "localhost". "oci:DIR[:TAG]" is an image layout on disk.
 *
 * @throws ClipError BAD_REFERENCE
 */
export function parseReference(input: string): Reference {
  const text = input.trim();
  const form = /^(oci|oci-archive|docker-archive):/.exec(text)?.[1] as LayoutReference['form'] | undefined;
  if (form !== undefined) return parseLayout(text, form);
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(text)?.[1]?.toLowerCase();
  if (scheme !== undefined && scheme !== 'docker') {
    bad(text, `it begins with ${scheme}://`, 'leave the scheme out; --plain-http is the switch for HTTP');
  }
  const bare = scheme === undefined ? text : text.slice('docker://'.length);
  if (bare === '') bad(text, 'it is empty');

  const { rest: named, digest } = takeDigest(bare, text);
  const { rest: name, tag } = takeTag(named);
  if (tag !== null && !TAG.test(tag)) {
    bad(
      text,
      `"${tag}" is not a tag`,
      'a tag has up to 128 letters, digits, "_", ".", "-", and does not begin with "." or "-"',
    );
  }

  const slash = name.indexOf('/');
  const first = slash < 0 ? '' : name.slice(0, slash);
  const hasHost = /[.:A-Z[]/.test(first) || first === 'localhost';
  let registry = hasHost ? first : 'docker.io';
  let repository = hasHost ? name.slice(slash + 1) : name;
  if (!DOMAIN.test(registry)) bad(text, `"${registry}" is not a host name`);
  if (Number(/:(\d+)$/.exec(registry)?.[1] ?? 1) > 65535 || /:0*$/.test(registry))
    bad(text, 'the port is out of range');
  // Docker's old name for the same registry.
  if (registry === 'index.docker.io' || registry === 'registry-1.docker.io') registry = 'docker.io';
  if (registry === 'docker.io' && !repository.includes('/')) repository = `library/${repository}`;

  for (const component of repository.split('/')) {
    if (COMPONENT.test(component)) continue;
    if (component === '') bad(text, 'a part of the repository name is empty');
    const hint = component === component.toLowerCase() ? undefined : 'repository names are lower case';
    bad(text, `"${component}" is not a repository name`, hint);
  }
  if (registry.length + 1 + repository.length > MAX_NAME) bad(text, `the name is longer than ${MAX_NAME} characters`);
  if (/^library\/[0-9a-f]{64}$/.test(repository)) {
    bad(text, '64 hex digits are an image id, not a name', 'to name an image by digest write NAME@sha256:…');
  }

  const effectiveTag = tag ?? (digest === null ? 'latest' : null);
  const suffix = `${effectiveTag === null ? '' : `:${effectiveTag}`}${digest === null ? '' : `@${digest}`}`;
  const canonical = `${registry}/${repository}${suffix}`;
  return { kind: 'registry', registry, repository, tag: effectiveTag, digest, canonical };
}

/** Where the registry's API answers: Docker Hub's is not at the name people write. */
export function apiHost(registry: string): string {
  return registry === 'docker.io' ? 'registry-1.docker.io' : registry;
}

/**
 * A place where archives are kept: "HOST[:PORT]/NAME", or "HOST[:PORT]" for the repository of the same name there.
 * @throws ClipError BAD_REFERENCE
 */
export function parseIndexSource(
  text: string,
  image: Pick<RegistryReference, 'registry' | 'repository'>,
): Pick<RegistryReference, 'registry' | 'repository'> {
  const isHost = !text.includes('/') && (/[.:]/.test(text) || text === 'localhost');
  if (isHost && image.registry === '') {
    bad(text, 'the image is in no registry, so that it has no repository there', 'write HOST[:PORT]/NAME');
  }
  const reference = parseReference(isHost ? `${text}/${image.repository}` : text);
  if (reference.kind !== 'registry') bad(text, 'archives are kept in registries', 'write HOST[:PORT]/NAME');
  return { registry: reference.registry, repository: reference.repository };
}
