import { boolean, ClipError, fields, string } from '../bytes/index.js';
import type { ContentCache } from '../cache/index.js';
import { credentialsOption } from '../oci/index.js';
import type { MountArchiveOptions } from './mount-archive.js';
import { cacheSize, imageOptionChecks } from './schema.js';

const checkFields = fields(
  { archivePath: string, mountPoint: string },
  { ...imageOptionChecks, cachePath: string, cacheSize, credentials: credentialsOption, suid: boolean, dev: boolean },
);

function checkContentCache(cache: string | ContentCache | undefined): void {
  if (cache === undefined || typeof cache === 'string') return;
  for (const method of ['getContent', 'storeContent'] as const) {
    if (typeof cache?.[method] === 'function') continue;
    throw new ClipError('USAGE', `contentCache has no ${method}()`, {
      hint: 'give a URL such as redis://HOST:PORT, or an object with getContent() and storeContent()',
    });
  }
}

/** @throws ClipError USAGE naming the option, what was expected and what was found */
export function checkMountOptions(options: MountArchiveOptions): void {
  checkFields(options, 'mountArchive: options');
  checkContentCache(options.contentCache);
}
