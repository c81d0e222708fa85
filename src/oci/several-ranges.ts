import { countWrongAnswer } from './wrong-answers.js';

/** Hosts that are remembered. */
const MAX_HOSTS = 256;
/**
 * Times that a host gave nothing of several ranges, twice, although it gave one of them in between. It may be a proxy that forbids such
 * requests or closes the connection, and it may be a registry in trouble.
 */
const MAX_FRUITLESS = 3;

interface Host {
  fruitless: number;
  /** Why no request for several ranges is sent to it any more. */
  refusal: string | null;
  told: boolean;
  /** Where it sent the last request for a blob. */
  leadsTo: string | null;
}

/** Since this process runs, by host and port. What one image has learnt of a host serves all. */
const hosts = new Map<string, Host>();

function of(name: string): Host {
  let host = hosts.get(name);
  if (host === undefined) {
    if (hosts.size >= MAX_HOSTS) hosts.delete(hosts.keys().next().value!);
    host = { fruitless: 0, refusal: null, told: false, leadsTo: null };
    hosts.set(name, host);
  }
  return host;
}

/** Whether a host may be asked for several ranges of a blob in one request: as long as it has not shown that it does not answer them. */
export function answersSeveralRanges(host: string): boolean {
  const known = hosts.get(host);
  if (known === undefined) return true;
  if (known.refusal !== null) return false;
  return known.leadsTo === null || (hosts.get(known.leadsTo)?.refusal ?? null) === null;
}

/** For the log: why a host is not asked so any more, the first time that it is asked for; otherwise null. */
export function untoldRefusal(host: string): string | null {
  const known = hosts.get(host);
  if (known === undefined || known.told || known.refusal === null) return null;
  known.told = true;
  return known.refusal;
}

/** The host redirected a request for a blob. */
export function noteRedirect(host: string, to: string): void {
  of(host).leadsTo = to === host ? null : to;
}

export function noteSeveralRanges(host: string, received: number, refusal: string | null): void {
  const known = of(host);
  if (received > 0) known.fruitless = 0;
  if (refusal !== null) refuse(host, known, refusal);
}

/** See MAX_FRUITLESS. */
export function noteFruitless(host: string): void {
  const known = of(host);
  if (++known.fruitless >= MAX_FRUITLESS) refuse(host, known, 'it answers none of them, though it answers one range');
}

function refuse(host: string, known: Host, why: string): void {
  if (known.refusal !== null) return;
  known.refusal = why;
  countWrongAnswer(host, 'parts');
}
