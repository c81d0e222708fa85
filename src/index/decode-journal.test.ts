import fc from 'fast-check';
import { expect, test } from 'vitest';
import { crc32 } from '../bytes/index.js';
import { OutputSums } from '../gzip/index.js';
import { JournalWriter, NOT_SUMMED, replay } from './decode-journal.js';

test('sums do not depend on which pieces were summed before they were told of', () => {
  const pieces = fc.array(
    fc.record({ length: fc.integer({ min: 1, max: 300 }), summed: fc.boolean(), cut: fc.boolean() }),
  );
  fc.assert(
    fc.property(pieces, (list) => {
      const bytes = Uint8Array.from({ length: list.reduce((sum, { length }) => sum + length, 0) }, (_, i) => i * 31);
      const writer = new JournalWriter();
      const wanted: number[] = [];
      let [at, start] = [0, 0];
      for (const { length, summed, cut } of list) {
        writer.output(at, length, summed ? crc32(bytes.subarray(at, at + length)) : NOT_SUMMED);
        at += length;
        if (!cut) continue;
        writer.boundary(at, 8 * at);
        wanted.push(crc32(bytes.subarray(start, at)));
        start = at;
      }
      writer.member({ crc32: crc32(bytes), size: bytes.length, position: 0 });
      const sums = new OutputSums();
      const found: number[] = [];
      const offsets: number[] = [];
      replay(writer.take(), {
        output: (address, length, crc) => {
          if (crc === NOT_SUMMED) sums.push(bytes.subarray(address, address + length));
          else sums.add(crc, length);
        },
        boundary: (layerOffset, bitOffset) => {
          expect(bitOffset).toBe(8 * layerOffset);
          offsets.push(layerOffset);
          found.push(sums.endSpan());
        },
        member: (trailer) => sums.endMember(trailer),
      });
      expect(found).toEqual(wanted);
      expect(offsets).toEqual([...offsets].sort((a, b) => a - b));
    }),
  );
});
