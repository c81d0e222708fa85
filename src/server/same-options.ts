import { isDeepStrictEqual } from 'node:util';
import { ClipError } from '../bytes/index.js';
import { type ConnectionState, type ImageOptions, planeOf } from '../wire/index.js';

/** What a mount asked for. */
interface AskedOptions {
  readonly archivePath: string;
  readonly options: Partial<ImageOptions>;
}

/** One connection serves all places of an image, so what decides how it is served cannot differ. */
export function requireSameOptions(existing: ConnectionState, args: AskedOptions): void {
  // A mount that names no place for the data wants the archive's own, not that of an earlier mount.
  for (const [name, wanted] of Object.entries({ storage: undefined, ...args.options })) {
    const has = existing.options[name as keyof ImageOptions];
    if ((wanted === undefined && name !== 'storage') || isDeepStrictEqual(wanted, has)) continue;
    // Whichever plane it is, it does what was asked for.
    if (name === 'plane' && (wanted === 'auto' || wanted === planeOf(existing).kind)) continue;
    throw new ClipError(
      'CONFLICT',
      `${args.archivePath} is mounted already with ${name} ${said(has)}, not ${said(wanted)}`,
      {
        hint:
          name === 'fill' && wanted === true
            ? `clipctl prefetch ${existing.places[0]?.path ?? 'DIR'} fetches all of it now`
            : `use the same option, or unmount ${existing.places[0]?.path ?? 'it'} first`,
      },
    );
  }
}

function said(option: unknown): string {
  return typeof option === 'object' ? JSON.stringify(option) : String(option);
}
