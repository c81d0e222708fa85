import { InvalidArgumentError } from 'commander';

/** Parsers of option values. A refused value is a usage error, in which commander names the option. */

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/** "20G" → bytes. */
export function byteSize(text: string): number {
  const match = /^(\d{1,12}(?:\.\d+)?)([kmgt]?)(?:i?b)?$/i.exec(text);
  if (match === null) throw new InvalidArgumentError('a size such as 500M or 20G expected');
  const bytes = Math.floor(Number(match[1]) * UNITS[match[2]!.toLowerCase()]!);
  if (!Number.isSafeInteger(bytes)) throw new InvalidArgumentError('a size of at most 8191T expected');
  return bytes;
}

/** "20M" → bytes per second. */
export function byteRate(text: string): number {
  const bytes = byteSize(text);
  if (bytes === 0)
    throw new InvalidArgumentError('at least 1 byte per second expected; without the option there is no limit');
  return bytes;
}

export function wholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('a whole number expected');
  return Number(text);
}

export function workerCount(text: string): number {
  const value = Number(text);
  if (!/^[1-9]\d?$/.test(text) || value > 64) throw new InvalidArgumentError('a whole number from 1 to 64 expected');
  return value;
}

/** "9464" (of this machine alone), "10.0.0.1:9464", "[::]:9464". */
export function listenAddress(text: string): { readonly host: string; readonly port: number } {
  const match = /^(?:(?:\[([0-9a-f:.]+)\]|([\w.-]+)):|:)?(\d{1,5})$/i.exec(text);
  const port = Number(match?.[3]);
  if (match === null || port < 1 || port > 65_535) {
    throw new InvalidArgumentError('PORT or HOST:PORT expected, [ADDRESS]:PORT for IPv6');
  }
  return { host: match[1] ?? match[2] ?? '127.0.0.1', port };
}

export function seconds(text: string): number {
  const value = Number(text);
  if (!/^\d{1,6}(\.\d+)?$/.test(text) || value < 0.001 || value > 86_400)
    throw new InvalidArgumentError('seconds from 0.001 to 86400 (a day) expected');
  return value;
}
