import { readFileSync } from 'node:fs';

/** Defined by scripts/bundle.mjs. */
declare const CLIP_VERSION: string | undefined;

/** The version in the package's own package.json. */
export function packageVersion(): string {
  if (typeof CLIP_VERSION === 'string') return CLIP_VERSION;
  const url = new URL('../../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(url, 'utf8')) as { version: string }).version;
}
