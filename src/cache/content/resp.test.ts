import { describe, expect, test } from 'vitest';
import { type ExpectedReply, encodeCommand, RedisError, type RedisReply, ReplyParser } from './resp.js';

type Settled = RedisReply | RedisError;

/** A parser for replies of up to 100 bytes, and what they were. */
function parser(abandoned: () => boolean = () => false): { parser: ReplyParser; replies: Settled[] } {
  const replies: Settled[] = [];
  const expected = (): ExpectedReply => ({
    maxBytes: 100,
    get abandoned() {
      return abandoned();
    },
    settle: (reply) => replies.push(reply),
  });
  return { parser: new ReplyParser(expected), replies };
}

/** As a connection does: what belongs to a string is read to where it belongs. */
function feed(reader: ReplyParser, bytes: Uint8Array, size: number): void {
  for (let at = 0; at < bytes.length; ) {
    const { room } = reader;
    const length = Math.min(size, bytes.length - at, room?.length ?? size);
    const piece = bytes.subarray(at, at + length);
    if (room === null) reader.push(Buffer.from(piece));
    else {
      room.set(piece);
      reader.took(length);
    }
    at += length;
  }
}

test('a command is a list of byte strings', () => {
  expect(encodeCommand(['SET', 'ä', Buffer.from([0, 255])]).toString('latin1')).toBe(
    '*3\r\n$3\r\nSET\r\n$2\r\n\xc3\xa4\r\n$2\r\n\0\xff\r\n',
  );
});

describe('replies', () => {
  const stream =
    '+OK\r\n:-7\r\n$-1\r\n$0\r\n\r\n$4\r\n\r\n:1\r\n*0\r\n*-1\r\n*2\r\n$1\r\na\r\n*1\r\n:3\r\n-ERR wrong\r\n';
  const expected = ['OK', -7, null, Buffer.from(''), Buffer.from('\r\n:1'), [], null, [Buffer.from('a'), [3]]];

  test.each([1, 2, 3, 1000])('are the same in pieces of %i bytes', (size) => {
    const { parser: reader, replies } = parser();
    const bytes = Buffer.from(stream);
    for (let at = 0; at < bytes.length; at += size) reader.push(bytes.subarray(at, at + size));
    feed(reader, bytes, size);
    for (const half of [replies.slice(0, expected.length + 1), replies.slice(expected.length + 1)]) {
      expect(half.slice(0, -1)).toEqual(expected);
      expect(half.at(-1)).toBeInstanceOf(RedisError);
      expect((half.at(-1) as RedisError).message).toBe('ERR wrong');
    }
  });

  test('come into the memory that their receiver has; nothing is allocated for a miss, nor for one that was given up', () => {
    const memory = new Uint8Array(new SharedArrayBuffer(10));
    const asked: number[] = [];
    let abandoned = false;
    const replies: Settled[] = [];
    const reader = new ReplyParser(() => ({
      maxBytes: 100,
      get abandoned() {
        return abandoned;
      },
      allocate: (length) => {
        asked.push(length);
        return memory.subarray(0, length);
      },
      settle: (reply) => replies.push(reply),
    }));
    for (const size of [1, 4, 1000]) {
      memory.fill(0);
      feed(reader, Buffer.from('$-1\r\n$0\r\n\r\n$6\r\nab\r\ncd\r\n'), size);
      expect((replies.at(-1) as Uint8Array).buffer).toBe(memory.buffer);
      expect(Buffer.from(memory).toString()).toBe('ab\r\ncd\0\0\0\0');
    }
    expect(asked).toEqual([6, 6, 6]);
    memory.fill(0);
    reader.push(Buffer.from('$6\r\nab'));
    abandoned = true;
    expect(reader.room).toBe(null);
    feed(reader, Buffer.from('cdef\r\n$6\r\nghijkl\r\n'), 1000);
    expect(Buffer.from(memory).toString()).toBe('ab\0\0\0\0\0\0\0\0');
    expect([asked.length, replies.slice(-2)]).toEqual([4, [null, null]]);
  });

  test('that are given up before or while they come are skipped', () => {
    let abandoned = false;
    const { parser: reader, replies } = parser(() => abandoned);
    reader.push(Buffer.from('$10\r\nabcde'));
    abandoned = true;
    reader.push(Buffer.from('fghij\r\n$3\r\nxyz\r\n'));
    abandoned = false;
    reader.push(Buffer.from('$3\r\nxyz\r\n'));
    expect(replies).toEqual([null, null, Buffer.from('xyz')]);
  });

  test('larger than expected, or no replies at all, are refused before memory is taken for them', () => {
    for (const bad of [
      '$101\r\n',
      '$99999999999999\r\n',
      '*4\r\n',
      '*2\r\n$30\r\n012345678901234567890123456789\r\n$30\r\n',
      '$x\r\n',
      '$1e3\r\n',
      '!\r\n',
      '+OK\n',
      `+${'a'.repeat(5000)}`,
      '*1\r\n'.repeat(5),
    ]) {
      expect(() => parser().parser.push(Buffer.from(bad)), bad.slice(0, 30)).toThrow(/a reply/);
    }
    const none = new ReplyParser(() => null);
    expect(() => none.push(Buffer.from('+OK\r\n'))).toThrow(/to no command/);
  });
});
