import { crc32 } from '../bytes/index.js';
import { CM_DEFLATE, FCOMMENT, FEXTRA, FHCRC, FIXED_HEADER_BYTES, FNAME, ID1, ID2, RESERVED_FLAGS } from './format.js';

enum Part {
  Fixed,
  ExtraLength,
  Extra,
  Name,
  Comment,
  Crc,
  Done,
}

/**
 * Reads one gzip member header (RFC 1952 §2.3) in any pieces, keeping none of it: FNAME and FCOMMENT have no length limit.
 */
export class MemberHeaderReader {
  #part = Part.Fixed;
  #flags = 0;
  /** Bytes of the current fixed-size part so far, its value (little-endian) if it is a number. */
  #have = 0;
  #value = 0;
  #extraLeft = 0;
  #crc = 0;
  /** The fault, once read() has returned less than it was given and `done` is false. */
  error: string | null = null;

  get done(): boolean {
    return this.#part === Part.Done;
  }

  reset(): void {
    this.#part = Part.Fixed;
    this.#flags = 0;
    this.#have = 0;
    this.#crc = 0;
    this.error = null;
  }

  /** Reads on; returns how many bytes belong to the header. Stops at its end or at the byte that is wrong (`error`). */
  read(bytes: Uint8Array): number {
    let at = 0;
    while (at < bytes.length && this.#part !== Part.Done && this.error === null) {
      const start = at;
      const part = this.#part;
      switch (part) {
        case Part.Fixed:
          this.#fixedByte(bytes[at]!);
          if (this.error === null) at++;
          break;
        case Part.ExtraLength:
          if (this.#number(bytes[at++]!)) {
            this.#extraLeft = this.#value;
            this.#next(this.#value > 0 ? Part.Extra : Part.Name);
          }
          break;
        case Part.Extra: {
          const n = Math.min(this.#extraLeft, bytes.length - at);
          at += n;
          this.#extraLeft -= n;
          if (this.#extraLeft === 0) this.#next(Part.Name);
          break;
        }
        case Part.Name:
        case Part.Comment: {
          const zero = bytes.indexOf(0, at);
          at = zero === -1 ? bytes.length : zero + 1;
          if (zero !== -1) this.#next(part + 1);
          break;
        }
        case Part.Crc:
          if (this.#number(bytes[at++]!)) {
            if (this.#value === (this.#crc & 0xffff)) this.#part = Part.Done;
            else this.error = 'the header CRC does not match';
          }
          break;
      }
      if (part !== Part.Crc && this.#flags & FHCRC) this.#crc = crc32(bytes.subarray(start, at), this.#crc);
    }
    return at;
  }

  #fixedByte(byte: number): void {
    switch (this.#have) {
      case 0:
      case 1:
        if (byte !== (this.#have === 0 ? ID1 : ID2)) this.error = 'not a gzip member (magic bytes 1f 8b expected)';
        break;
      case 2:
        if (byte !== CM_DEFLATE) this.error = `compression method ${byte}, 8 (deflate) expected`;
        break;
      case 3:
        if (byte & RESERVED_FLAGS) this.error = `reserved flags 0x${byte.toString(16)} set`;
        this.#flags = byte;
        // The bytes before the flags are known; this one is summed by the caller.
        this.#crc = crc32(Uint8Array.of(ID1, ID2, CM_DEFLATE));
        break;
    }
    this.#have++;
    if (this.#have === FIXED_HEADER_BYTES) this.#next(Part.ExtraLength);
  }

  /** Takes a byte of a 16-bit number; true if it is complete. */
  #number(byte: number): boolean {
    this.#value += this.#have === 0 ? byte : byte * 256;
    this.#have++;
    return this.#have === 2;
  }

  /** Enters `part`, or the first present part after it. */
  #next(part: Part): void {
    let next = part;
    if (next === Part.ExtraLength && !(this.#flags & FEXTRA)) next = Part.Name;
    if (next === Part.Name && !(this.#flags & FNAME)) next = Part.Comment;
    if (next === Part.Comment && !(this.#flags & FCOMMENT)) next = Part.Crc;
    if (next === Part.Crc && !(this.#flags & FHCRC)) next = Part.Done;
    this.#part = next;
    this.#have = 0;
    this.#value = 0;
  }
}
