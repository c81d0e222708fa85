import { readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Logger } from '../metrics/index.js';
import { OwnDirectory } from '../paths/index.js';
import { JOURNEY_KEPT_MS, JOURNEYS_DIRECTORY, type JourneyReply } from '../wire/index.js';

/** Those of the mounts that ended last. One is 3 MB at most. */
const MAX_KEPT = 64;

/** Keeps the journey of a mount that has ended, for a day. A cache that cannot be written costs the report, not the unmount. */
export function keepJourney(cacheDir: string, journey: JourneyReply, log: Logger): void {
  const path = join(cacheDir, JOURNEYS_DIRECTORY);
  try {
    const directory = OwnDirectory.open(path, { make: true });
    try {
      // Names are in the order of their ends.
      directory.replace(`${Date.now()}-${journey.identity.slice(-12)}.json`, `${JSON.stringify(journey)}\n`);
      const old = Date.now() - JOURNEY_KEPT_MS;
      const names = readdirSync(directory.at('.')).filter((name) => name.endsWith('.json'));
      for (const [i, name] of names.sort().reverse().entries()) {
        if (i >= MAX_KEPT || statSync(directory.at(name)).mtimeMs < old) rmSync(directory.at(name), { force: true });
      }
    } finally {
      directory.close();
    }
  } catch (error) {
    log.warn({ path, error: String(error) }, 'what a mount read cannot be kept for a report');
  }
}
