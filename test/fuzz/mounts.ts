// Fuzz target: archives that clip accepts, mounted by a clipd beside an honest archive of the same layers, with one cache. The
// honest mount must show the image whatever the other one is.
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openArchive } from '../../src/archive/index.js';
import { ClipError, FormatError } from '../../src/bytes/index.js';
import { bytesInput } from '../support/archives.js';
import { Clipctl } from '../support/clipctl.js';
import { forgeries, layerToForge, readContents, sealed } from '../support/forged.js';
import { FORGED_FILES, ForgedMounts } from '../support/forged-mounts.js';
import { writeImage } from '../support/images.js';
import { sha256Of } from '../support/mounted.js';

export { mutate } from './clip.js';

interface Bench {
  readonly clip: Clipctl;
  readonly mounts: ForgedMounts;
  readonly corpus: Uint8Array[];
}

let bench: Promise<Bench> | null = null;
let turn = 0;

async function start(): Promise<Bench> {
  const clip = await Clipctl.create();
  const image = writeImage([layerToForge()]);
  // Archives name the layout's place, so an input that failed once fails again only with the same one. It is left there: another
  // run may use it.
  const layout = join(
    tmpdir(),
    `clip-fuzz-layout-${sha256Of(readFileSync(join(image.layout.directory, 'index.json'))).slice(0, 16)}`,
  );
  try {
    renameSync(image.layout.directory, layout);
  } catch {
    image.remove();
  }
  const archive = clip.path('honest.clip');
  await clip.ok('index', '--image', `oci:${layout}:latest`, '--out', archive, '--checkpoint', '1');
  const place = await clip.place('honest');
  await clip.ok('mount', '--clip', archive, '--at', place);
  const expected = new Map(FORGED_FILES.map((path) => [path, sha256Of(readFileSync(`${place}/${path}`))]));
  const honest = readContents(archive);
  const blob = readFileSync(join(layout, 'blobs', honest.image.layers[0]!.digest.replace(':', '/')));
  const corpus = [honest, ...forgeries(honest, blob).map(({ contents }) => contents)].map(sealed);
  const mounts = new ForgedMounts(clip, expected);
  await mounts.unmount(place);
  await mounts.prune(true);
  return { clip, mounts, corpus };
}

export async function corpus(): Promise<Uint8Array[]> {
  bench ??= start();
  return (await bench).corpus;
}

/** Beside any failure: the end of clipd's log. */
const LOG_BYTES = 4000;

export async function execute(input: Uint8Array): Promise<string> {
  bench ??= start();
  const { clip, mounts } = await bench;
  try {
    return await mountBeside(input, clip, mounts);
  } catch (error) {
    const log = readFileSync(clip.path('root', 'clipd.log'), 'utf8').slice(-LOG_BYTES);
    throw new Error(`${error instanceof Error ? error.stack : String(error)}\n${log}`);
  }
}

async function mountBeside(input: Uint8Array, clip: Clipctl, mounts: ForgedMounts): Promise<string> {
  try {
    const { image } = openArchive(bytesInput(input));
    // A registry of the fuzzer's invention would be asked over the network.
    if (image.registry !== '' || !existsSync(image.repository)) return 'elsewhere';
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    return 'refused';
  }
  const path = clip.path('forged.clip');
  writeFileSync(path, input);
  const honest = clip.path('honest.clip');
  // In turn: the honest mount comes after the forged one, or is there before.
  const before = turn++ % 2 === 0 ? null : await mounts.mount(honest, 'before');
  let forged: string;
  try {
    forged = await mounts.mount(path, 'forged');
  } catch (error) {
    if (before !== null) await mounts.unmount(before);
    if (!(error instanceof ClipError)) throw error;
    return `not mounted: ${error.code}`;
  }
  const found = await mounts.readForged(forged);
  const after = await mounts.mount(honest, 'after');
  for (const place of before === null ? [after] : [before, after]) await mounts.checkHonest(place);
  for (const place of [after, forged, ...(before === null ? [] : [before])]) await mounts.unmount(place);
  await mounts.prune(false);
  return `mounted, read ${[...found.values()].filter((bytes) => bytes !== null).length}`;
}

/** Each mounts two or three times. */
export const mutationsInTests = 15;

export async function close(): Promise<void> {
  if (bench === null) return;
  const { clip } = await bench;
  bench = null;
  await clip.close();
}
