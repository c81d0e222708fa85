import { FormatError } from '../bytes/index.js';

/**
 * A numeric header field: octal digits between spaces and NULs (POSIX), or base-256, two's complement with the first bit set
 * (GNU, star). An empty field is 0.
 *
 * @param at  the block's layer offset, for the error
 * @throws FormatError if it is neither, or beyond ±2^53
 */
export function parseNumeric(block: Uint8Array, start: number, length: number, name: string, at: number): number {
  const end = start + length;
  if (block[start]! & 0x80) return parseBase256(block, start, end, name, at);
  let i = start;
  while (i < end && (block[i] === 0x20 || block[i] === 0)) i++;
  let value = 0;
  for (; i < end; i++) {
    const digit = block[i]! - 0x30;
    if (digit < 0 || digit > 7) break;
    value = value * 8 + digit;
  }
  if (i < end && block[i] !== 0 && block[i] !== 0x20) {
    throw new FormatError(
      'tar header',
      at + start,
      `${name} field is not a number: ${printable(block.subarray(start, end))}`,
    );
  }
  return value;
}

/** The place of a field in the block. */
export type Field = readonly [start: number, length: number];

export function parseField(block: Uint8Array, field: Field, name: string, at: number): number {
  return parseNumeric(block, field[0], field[1], name, at);
}

export function parseText(block: Uint8Array, field: Field): Uint8Array {
  return parseString(block, field[0], field[1]);
}

function parseBase256(block: Uint8Array, start: number, end: number, name: string, at: number): number {
  // Bit 7 marks the encoding, bit 6 is the sign. Bits of a negative number are inverted so that both loops accumulate upwards.
  const negative = (block[start]! & 0x40) !== 0;
  const invert = negative ? 0xff : 0;
  let value = 0;
  for (let i = start; i < end; i++) {
    let byte = block[i]! ^ invert;
    if (i === start) byte &= 0x7f;
    value = value * 256 + byte;
    if (value > Number.MAX_SAFE_INTEGER)
      throw new FormatError('tar header', at + start, `${name} field is beyond 2^53`);
  }
  return negative ? -1 - value : value;
}

/** Up to the first NUL, or all of it. */
export function parseString(block: Uint8Array, start: number, length: number): Uint8Array {
  let end = start;
  const limit = start + length;
  while (end < limit && block[end] !== 0) end++;
  return block.subarray(start, end);
}

/**
 * Decimal digits with an optional sign, as Go's ParseInt takes them: any number of leading zeros. Null for anything else.
 * The result is exact only if it is a safe integer: callers refuse one that is not.
 */
export function parseDecimal(text: string): number | null {
  return /^[-+]?[0-9]+$/.test(text) ? Number(text) + 0 : null; // + 0: no negative zero
}

/** A decimal from 0 to 2^53 - 1; null for anything else. */
export function parseCount(text: string): number | null {
  const value = parseDecimal(text);
  return value !== null && value >= 0 && Number.isSafeInteger(value) ? value : null;
}

function isDigit(byte: number): boolean {
  return byte >= 0x30 && byte <= 0x39;
}

/**
 * A pax time: decimal seconds with any number of fraction digits. Split so that 0 ≤ nsec < 10^9, as in timespec;
 * digits beyond nanoseconds are cut off.
 */
export function parsePaxTime(text: Uint8Array): { sec: number; nsec: number } | null {
  const negative = text[0] === 0x2d;
  const start = negative ? 1 : 0;
  let at = start;
  let sec = 0;
  for (; at < text.length && isDigit(text[at]!); at++) sec = sec * 10 + text[at]! - 0x30;
  if (at === start || !Number.isSafeInteger(sec)) return null;
  let nsec = 0;
  if (at < text.length) {
    if (text[at++] !== 0x2e) return null;
    let unit = 1_000_000_000;
    for (; at < text.length && isDigit(text[at]!); at++) {
      if (unit === 1) continue;
      unit /= 10;
      nsec += (text[at]! - 0x30) * unit;
    }
    if (at < text.length) return null;
  }
  if (negative) {
    sec = -sec;
    if (nsec > 0) {
      sec -= 1;
      nsec = 1_000_000_000 - nsec;
    }
  }
  return { sec: sec + 0, nsec };
}

/** For error messages: printable ASCII as it is, the rest escaped, cut at 60 bytes. */
export function printable(bytes: Uint8Array): string {
  let out = '';
  for (const byte of bytes.subarray(0, 60)) {
    out +=
      byte >= 0x20 && byte < 0x7f && byte !== 0x5c
        ? String.fromCharCode(byte)
        : `\\x${byte.toString(16).padStart(2, '0')}`;
  }
  return JSON.stringify(bytes.length > 60 ? `${out}…` : out).replaceAll('\\\\', '\\');
}
