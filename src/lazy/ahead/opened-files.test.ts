import { expect, it } from 'vitest';
import type { References } from '../../archive/index.js';
import type { LayerIndex } from '../../bytes/index.js';
import { newTouchRecords, noteTouch, TOUCH_PAGE, type TouchRecord } from '../../spans/index.js';
import type { FollowedImage } from './followed-image.js';
import { OpenedFiles } from './opened-files.js';

/** Files of one layer: offset and length of each; its nid is 100 and its place among them. */
function opened(files: readonly (readonly [number, number])[]): { touch: TouchRecord[]; look(): number[] } {
  const nid = Float64Array.from(files, (_, i) => 100 + i);
  const image: Pick<FollowedImage, 'references' | 'map'> = {
    references: { count: files.length, nid } as References,
    map: (file, offset, length, visit) => {
      const [start, size] = files[file - 100]!;
      visit(0 as LayerIndex, start + offset, Math.min(length, size - offset));
    },
  };
  const touch = newTouchRecords([1 << 20])!;
  const watched = new OpenedFiles(image as FollowedImage, touch);
  return {
    touch,
    look: () => {
      const found: number[] = [];
      watched.look((file) => found.push(file));
      return found;
    },
  };
}

it('knows a file by a page that is its own, whatever is read of its neighbours', () => {
  const { touch, look } = opened([
    [512, 3 * TOUCH_PAGE],
    [4 * TOUCH_PAGE, TOUCH_PAGE],
  ]);
  noteTouch(touch[0]!, 0, 512);
  expect(look()).toEqual([]);
  noteTouch(touch[0]!, 512, TOUCH_PAGE);
  expect(look()).toEqual([0]);
  noteTouch(touch[0]!, 4 * TOUCH_PAGE, TOUCH_PAGE);
  expect(look()).toEqual([1]);
  expect(look()).toEqual([]);
});

it('knows a small file by both pages that it shares, and tells none within one page from its neighbours', () => {
  const { touch, look } = opened([
    [TOUCH_PAGE - 1000, 2000],
    [5 * TOUCH_PAGE + 100, 2000],
  ]);
  noteTouch(touch[0]!, 0, TOUCH_PAGE);
  noteTouch(touch[0]!, 5 * TOUCH_PAGE, TOUCH_PAGE);
  expect(look()).toEqual([]);
  noteTouch(touch[0]!, TOUCH_PAGE - 1000, 2000);
  expect(look()).toEqual([0]);
});
