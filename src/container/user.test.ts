import { describe, expect, test } from 'vitest';
import { ClipError } from '../bytes/index.js';
import { resolveUser } from './user.js';

const PASSWD = `root:x:0:0:root:/root:/bin/sh
# a comment:x:1:1:::
app:x:1000:1001:App:/home/app:/bin/sh
broken
1234:x:77:78::/numbers:
huge:x:99999999999:0::/:
`;
const GROUP = `root:x:0:
app:x:1001:
wheel:x:10:root,app
audio:x:29:app
5:x:505:
`;

describe('resolveUser, as Docker reads USER', () => {
  test.each([
    ['', 0, 0, [10], '/root'],
    ['root', 0, 0, [10], '/root'],
    ['0', 0, 0, [10], '/root'],
    ['app', 1000, 1001, [10, 29], '/home/app'],
    ['1000', 1000, 1001, [10, 29], '/home/app'],
    ['app:wheel', 1000, 10, [], '/home/app'],
    ['app:7', 1000, 7, [], '/home/app'],
    ['2000', 2000, 0, [], null],
    ['2000:3000', 2000, 3000, [], null],
    [':10', 0, 10, [], '/root'],
    // A name of digits is a name first.
    ['1234', 77, 78, [], '/numbers'],
    ['app:5', 1000, 505, [], '/home/app'],
  ] as const)('%j', (wanted, uid, gid, additionalGids, home) => {
    expect(resolveUser(wanted, PASSWD, GROUP)).toEqual({ uid, gid, additionalGids, home });
  });

  test.each([
    ['nobody', /no user "nobody" .*\/etc\/passwd/],
    ['app:none', /no group "none" .*\/etc\/group/],
    ['99999999999', /no user "99999999999"/],
    ['huge', /no user "huge"/],
    ['-1', /no user "-1"/],
  ])('%j is not there', (wanted, message) => {
    expect(() => resolveUser(wanted, PASSWD, GROUP)).toThrow(message);
    expect(() => resolveUser(wanted, PASSWD, GROUP)).toThrow(ClipError);
  });

  test('an image without the files knows numbers only', () => {
    expect(resolveUser('7:8', '', '')).toEqual({ uid: 7, gid: 8, additionalGids: [], home: null });
    expect(() => resolveUser('root', '', '')).toThrow(/no user "root"/);
  });
});
