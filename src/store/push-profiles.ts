import { ArchiveFile } from '../check/index.js';
import {
  MAX_PROFILE_BYTES,
  ProfileStore,
  packProfile,
  type RecordedProfile,
  startsOf,
  unpackProfile,
} from '../lazy/index.js';
import { Metrics, silentLogger } from '../metrics/index.js';
import type { ArtifactRepository } from '../oci/index.js';

export interface PushedProfiles {
  /** Profiles that this machine keeps of the image: one for each command. */
  readonly profiles: number;
  /** Those of them that are new in the registry. */
  readonly changed: number;
}

/**
 * Attaches what is kept of an image's starts to the image in its registry, where mounts on other machines find it. A profile of more
 * starts that is there already stays.
 * @throws ClipError NOT_FOUND: the image is not in the repository; BAD_FORMAT: a kept profile is damaged; UNAUTHORIZED, NETWORK
 */
export async function pushProfiles(
  archivePath: string,
  cacheDir: string,
  artifacts: ArtifactRepository,
  signal?: AbortSignal,
): Promise<PushedProfiles> {
  const file = ArchiveFile.open(archivePath);
  file.close();
  const { image } = file.archive;
  const kept = new ProfileStore(cacheDir, null, silentLogger(), new Metrics()).keptOf(image);
  let changed = 0;
  for (const [command, profile] of kept) {
    const there = await artifacts.fetchProfile(image.manifestDigest, command, MAX_PROFILE_BYTES, signal);
    if (startsOf(there === null ? null : usable(there)) > startsOf(profile)) continue;
    const packed = packProfile(JSON.stringify(profile));
    if ((await artifacts.pushProfile(packed, image.manifestDigest, command, startsOf(profile), signal)).changed)
      changed++;
  }
  return { profiles: kept.size, changed };

  /** One that no mount would use is replaced. */
  function usable(bytes: Uint8Array): RecordedProfile | null {
    try {
      return unpackProfile(bytes, image, 'the profile in the registry');
    } catch {
      return null;
    }
  }
}
