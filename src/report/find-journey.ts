import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ClipError } from '../bytes/index.js';
import { ClipdClient, NotRunningError } from '../client/index.js';
import { JOURNEY_KEPT_MS, JOURNEYS_DIRECTORY, type JourneyReply } from '../wire/index.js';

/**
 * The journey of the image that is mounted at a place, or of the last one that was within a day.
 * @throws ClipError NOT_FOUND
 */
export async function findJourney(options: {
  readonly root: string;
  readonly cacheDir: string;
  readonly place: string;
}): Promise<JourneyReply> {
  const { root, place } = options;
  const client = new ClipdClient(root);
  let { cacheDir } = options;
  try {
    return await client.journey(place);
  } catch (error) {
    if (!(error instanceof NotRunningError)) {
      if (!(error instanceof ClipError) || error.code !== 'NOT_FOUND') throw error;
      ({ cacheDir } = await client.health());
    }
  }
  const directory = join(cacheDir, JOURNEYS_DIRECTORY);
  let latest: JourneyReply | null = null;
  for (const name of namesIn(directory)) {
    const journey = readJourney(join(directory, name));
    if (journey === null || !journey.places.includes(place)) continue;
    if (Date.now() - Date.parse(journey.endedAt ?? '') > JOURNEY_KEPT_MS) continue;
    if (latest === null || journey.mountedAt > latest.mountedAt) latest = journey;
  }
  if (latest !== null) return latest;
  throw new ClipError('NOT_FOUND', `nothing is known of a clip mount at ${place}`, {
    hint: 'a mount is known while it exists and for a day after it has ended in order; clipctl ps lists those that exist',
  });
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory).filter((name) => name.endsWith('.json'));
  } catch {
    return [];
  }
}

/** Null: it has just been removed, or is of another version. */
function readJourney(path: string): JourneyReply | null {
  try {
    const journey = JSON.parse(readFileSync(path, 'utf8')) as JourneyReply;
    return journey.format === 1 && Array.isArray(journey.places) ? journey : null;
  } catch {
    return null;
  }
}
