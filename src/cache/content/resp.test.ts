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
    expect(replies.slice(0, -1)).toEqual(expected);
    expect(replies.at(-1)).toBeInstanceOf(RedisError);
    expect((replies.at(-1) as RedisError).message).toBe('ERR wrong');
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
