// Words and names in a text that JavaScript puts into this module's memory: see ../text-search.ts.

/** Where the parts of the memory begin. The text ends before `HITS` with 32 zero bytes behind it. */
const WORDS: usize = 0;
const KINDS: usize = 1024;
const TEXT: usize = 2048;
const HITS: usize = TEXT + 0x40000 + 32;
const LAST: usize = HITS + 0x40000 - 8;
const MAX_NAME: usize = 160;

/**
 * Finds words of the text [TEXT, end). `count` words lie at WORDS: two neighbouring bytes of each in all lanes, twice 16 bytes, then the
 * word and its mask; the two bytes are those from `offset` on. A hit is a position in the text times sixteen and the number of the word.
 * @returns the number of hits, which lie at HITS; the search ends when there is no room for more
 */
export function find(end: usize, count: usize, offset: usize): usize {
  let hit = HITS;
  const words = WORDS + (count << 6);
  for (let at = TEXT; at < end; at += 16) {
    const first = v128.load(at + offset);
    const second = v128.load(at + offset, 1);
    let found = v128.splat<i8>(0);
    for (let word = WORDS; word < words; word += 64) {
      const both = v128.and(v128.eq<i8>(first, v128.load(word)), v128.eq<i8>(second, v128.load(word, 16)));
      found = v128.or(found, both);
    }
    for (let bits = v128.bitmask<i8>(found); bits !== 0; bits &= bits - 1) {
      const place = at + ctz(bits);
      const four = load<u32>(place);
      for (let word = WORDS; word < words; word += 64) {
        if ((four & load<u32>(word, 36)) !== load<u32>(word, 32) || place >= end) continue;
        store<u32>(hit, (u32(place - TEXT) << 4) | u32((word - WORDS) >>> 6));
        hit += 4;
        if (hit > LAST) return (hit - HITS) >>> 2;
      }
    }
  }
  return (hit - HITS) >>> 2;
}

/**
 * Finds strings of the text [TEXT, end) that a zero ends and that look like names of files: paths of two parts at least that begin with a
 * slash; with `any` also names without one, with `library` those of them that begin with an l. A hit is the beginning and the end.
 */
export function names(end: usize, any: bool, library: bool): usize {
  let hit = HITS;
  let start = TEXT;
  for (let block = TEXT; block < end; block += 16) {
    for (let bits = v128.bitmask<i8>(v128.eq<i8>(v128.load(block), v128.splat<i8>(0))); bits !== 0; bits &= bits - 1) {
      const zero = block + ctz(bits);
      if (zero >= end) break;
      const begin = start;
      start = zero + 1;
      if (zero - begin < 2 || zero - begin > MAX_NAME) continue;
      const first = load<u8>(begin);
      const slash = first === 0x2f;
      if (!slash && (first === 0x2d || !(any || (library && first === 0x6c)))) continue;
      // From its end, where most constants that are no names differ from one.
      let slashes = 0;
      let at = zero - 1;
      for (; at >= begin; at--) {
        const kind = load<u8>(KINDS + load<u8>(at));
        if (kind === 0) break;
        slashes += i32(kind === 2);
      }
      if (at >= begin || (slash ? slashes < 2 : slashes > 0)) continue;
      store<u32>(hit, u32(begin - TEXT));
      store<u32>(hit, u32(zero - TEXT), 4);
      hit += 8;
      if (hit > LAST) return (hit - HITS) >>> 2;
    }
  }
  return (hit - HITS) >>> 2;
}
