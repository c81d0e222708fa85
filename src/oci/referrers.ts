import { ClipError } from '../bytes/index.js';
import { type Referrer, referrersOf } from './artifact-manifests.js';
import { MAX_MANIFEST_BYTES } from './manifest.js';
import { OCI_INDEX } from './media-types.js';
import type { RepositoryRequests } from './repository-requests.js';

/*
 * The list of the manifests that refer to an image (distribution-spec v1.1, "Listing Referrers"). A registry may give it in pages, and need not
 * filter it by type: signatures and attestations of a popular image then come before what is looked for.
 */

/** Registries give 50 to 1,000 entries in a page: these are thousands, each of which a client would have pushed by hand. */
export const MAX_PAGES = 32;
/** Of all pages of a list. 32 pages of 1,000 entries with some annotations each. */
export const MAX_LIST_BYTES = 4 * MAX_MANIFEST_BYTES;

/**
 * Entries of one type, page by page: a page is asked for when the entries before it are used up. A registry without the API ends it without any.
 * Entries are filtered here also when the registry says that it did so (OCI-Filters-Applied): what it says is not checked by anything.
 * @returns false: the registry has no such API
 * @throws ClipError NETWORK: a page leads to another place; LIMIT; as {@link RepositoryRequests.body}
 */
export async function* listReferrers(
  requests: RepositoryRequests,
  manifestDigest: string,
  artifactType: string,
  signal?: AbortSignal,
): AsyncGenerator<Referrer, boolean, void> {
  const what = `the referrers of ${manifestDigest} in ${requests.repository}`;
  const endpoint = `${requests.repository}/referrers/${manifestDigest}`;
  const headers = { 'accept-encoding': 'identity', accept: OCI_INDEX };
  const request = { what, headers, accept: [200], signal };
  const asked = new Set<string>();
  let query: string | null = `?${new URLSearchParams({ artifactType })}`;
  let bytes = 0;
  while (query !== null) {
    asked.add(query);
    let head: { readonly link: string | undefined; readonly url: URL } | undefined;
    const page = await requests.body('resolve', `${endpoint}${query}`, request, MAX_MANIFEST_BYTES, {
      onHead: ({ response }) => {
        head = { link: response.headers.link, url: response.url };
      },
    });
    // After the first page: what refers to the image was deleted meanwhile.
    if (page === null) return asked.size > 1;
    yield* referrersOf(page, what, artifactType);
    query = nextPage(head!.link, head!.url, endpoint, what);
    if (query === null) return true;
    bytes += page.length;
    if (asked.has(query)) throw new ClipError('NETWORK', `${head!.url.host} leads through ${what} in a circle`);
    if (asked.size === MAX_PAGES) throw new ClipError('LIMIT', `${what} have more than ${MAX_PAGES} pages`);
    if (bytes > MAX_LIST_BYTES) throw new ClipError('LIMIT', `${what} have more than ${MAX_LIST_BYTES} bytes`);
  }
  return true;
}

/**
 * The query of the page after this one; null: it is the last. Only the query is taken over, for a list of the same manifest at the same host: the
 * next request carries the login, and goes where this one went.
 * @param link the header, as it came
 * @param from where the page came from
 */
function nextPage(link: string | undefined, from: URL, endpoint: string, what: string): string | null {
  const target = link === undefined ? null : nextTarget(link);
  if (target === null) return null;
  const refuse = (why: string): ClipError =>
    new ClipError('NETWORK', `${from.host} continues ${what} ${why}`, {
      hint: 'is there a proxy that rewrites links?',
    });
  let url: URL;
  let path: string;
  try {
    url = new URL(target, from);
    path = decodeURIComponent(url.pathname);
  } catch {
    throw refuse('at something that is not a URL');
  }
  // A registry behind a proxy that ends TLS may write http.
  if ((url.protocol !== 'https:' && url.protocol !== 'http:') || url.hostname !== from.hostname) {
    throw refuse(`at another host, ${url.protocol}//${url.host}`);
  }
  if (!path.endsWith(`/${endpoint}`)) throw refuse('at another path of its own');
  return url.search;
}

/** `<URI-Reference>`, RFC 8288 §3. */
const TARGET = /\s*<([^<>]*)>/y;
/** A parameter: a token, with a token or a quoted string as its value. */
const PARAMETER = /\s*;\s*([\w!#$%&'*+.^`|~-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",;]+)))?/y;
const COMMA = /\s*(?:,|$)/y;

/** Of the first link whose relation is "next". Null: there is none, or the header breaks the grammar before it. */
export function nextTarget(header: string): string | null {
  let at = 0;
  const take = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = at;
    const found = pattern.exec(header);
    if (found !== null) at = pattern.lastIndex;
    return found;
  };
  for (let target = take(TARGET); target !== null; target = take(TARGET)) {
    // The first one of a name counts (§3.3). One with an anchor is of another resource (§3.2).
    const parameters = new Map<string, string>();
    for (let found = take(PARAMETER); found !== null; found = take(PARAMETER)) {
      const [, name, quoted, plain] = found;
      const key = name!.toLowerCase();
      if (!parameters.has(key)) parameters.set(key, quoted?.replace(/\\(.)/g, '$1') ?? plain ?? '');
    }
    const relations = (parameters.get('rel') ?? '').toLowerCase().split(/\s+/);
    if (relations.includes('next') && !parameters.has('anchor')) return target[1]!;
    if (take(COMMA) === null || at >= header.length) return null;
  }
  return null;
}
