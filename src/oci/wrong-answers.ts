/**
 * What a host may answer in place of a blob's bytes:
 * - `range`: success, but another range than was asked for, or none that can be read;
 * - `ignoredRange`: the blob from its start in place of a range;
 * - `length`: a blob of another length than the manifest says;
 * - `encoding`: bytes in an encoding that was not asked for;
 * - `bytes`: bytes with another digest;
 * - `parts`: no parts in answer to a request for several ranges, which a server is free not to answer. Counted once for each host.
 */
export type WrongAnswer = 'range' | 'ignoredRange' | 'length' | 'encoding' | 'bytes' | 'parts';

/** Hosts that are told apart: redirects name any number of them. */
const MAX_HOSTS = 64;
const OTHERS = 'others';

/** Since this process runs. A host that answers wrongly does so to every image, so that one count serves all sources. */
const counts = new Map<string, Map<WrongAnswer, number>>();

export function countWrongAnswer(host: string, kind: WrongAnswer): void {
  const name = counts.has(host) || counts.size < MAX_HOSTS ? host : OTHERS;
  let of = counts.get(name);
  if (of === undefined) {
    of = new Map();
    counts.set(name, of);
  }
  of.set(kind, (of.get(kind) ?? 0) + 1);
}

/** By host and kind: "wrongAnswer.registry.example.com:5000.range". */
export function wrongAnswers(): Record<string, number> {
  const all: Record<string, number> = {};
  for (const [host, kinds] of counts) for (const [kind, count] of kinds) all[`wrongAnswer.${host}.${kind}`] = count;
  return all;
}
