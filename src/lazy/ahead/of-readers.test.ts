import { describe, expect, it } from 'vitest';
import type { Nid } from '../../bytes/index.js';
import { Link } from '../link.js';
import { AheadOfReaders } from './of-readers.js';

describe('what is fetched ahead of readers', () => {
  const image = (onFault: (error: unknown) => void) => ({
    layers: [],
    map: () => {},
    hasRoom: () => true,
    onFault,
    link: () => new Link(),
  });

  it('asks for references when a reader waits first, and goes on without them when they are damaged', () => {
    const faults: unknown[] = [];
    let asked = 0;
    const ahead = new AheadOfReaders(
      image((error) => faults.push(error)),
      () => {
        asked++;
        throw new Error('damaged');
      },
    );
    ahead.watch([]);
    expect(asked).toBe(0);
    ahead.onMiss(1 as Nid, []);
    ahead.onNamed(() => [1 as Nid]);
    expect(asked).toBe(1);
    expect(faults.map(String)).toEqual(['Error: damaged']);
    ahead.close();
  });

  it('asks for none after its end', () => {
    const ahead = new AheadOfReaders(
      image(() => {}),
      () => {
        throw new Error('asked');
      },
    );
    ahead.close();
    ahead.onMiss(1 as Nid, []);
    ahead.onNamed(() => [1 as Nid]);
  });
});
