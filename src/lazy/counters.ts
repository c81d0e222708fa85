import type { Counter, Histogram, Metrics, Source } from '../metrics/index.js';
import { SOURCES } from '../metrics/index.js';
import { Priority } from './inflate-tasks.js';

/** Everything a LayerSet counts, under the names that `clipctl stats --json` shows; their meanings are in the catalogue of metrics/. */
export function lazyCounters(metrics: Metrics) {
  const bytes = {
    [Priority.demand]: metrics.counter('demandBytes'),
    [Priority.readahead]: metrics.counter('readaheadBytes'),
    [Priority.prefetch]: metrics.counter('prefetchBytes'),
    [Priority.speculation]: metrics.counter('speculatedBytes'),
    [Priority.fill]: metrics.counter('fillBytes'),
  };
  const perSource = <T>(make: (source: Source) => T): Record<Source, T> =>
    Object.fromEntries(SOURCES.map((source) => [source, make(source)])) as Record<Source, T>;
  const sourceBytes: Record<Source, Counter> = perSource((source) => metrics.counter(`sourceBytes.${source}`));
  const sourceSeconds: Record<Source, Histogram> = perSource((source) => metrics.histogram(`sourceSeconds.${source}`));
  return {
    bytes,
    /** Bytes of a source, and how long they took to come. */
    came(source: Source, length: number, milliseconds: number): void {
      sourceBytes[source].add(length);
      sourceSeconds[source].observe(milliseconds / 1000);
    },
    requests: metrics.counter('requests'),
    spansFetched: metrics.counter('spansFetched'),
    spanHits: metrics.counter('spanHits'),
    spanMisses: metrics.counter('spanMisses'),
    spansChecked: metrics.counter('spansChecked'),
    spansDamaged: metrics.counter('spansDamaged'),
    digestMismatches: metrics.counter('digestMismatches'),
    wrongHashes: metrics.counter('legacyWrongHashes'),
    badContent: metrics.counter('badContent'),
    failovers: metrics.counter('failovers'),
    rivals: metrics.counter('rivalFetches'),
    failedSpans: metrics.counter('failedSpans'),
    abortedSpans: metrics.counter('abortedSpans'),
    skippedBackground: metrics.counter('skippedBackground'),
    useful: {
      [Priority.readahead]: metrics.counter('readaheadUsefulBytes'),
      [Priority.prefetch]: metrics.counter('prefetchUsefulBytes'),
      [Priority.speculation]: metrics.counter('speculatedUsefulBytes'),
      [Priority.fill]: metrics.counter('fillUsefulBytes'),
    },
    wasted: {
      [Priority.readahead]: metrics.counter('readaheadWastedBytes'),
      [Priority.prefetch]: metrics.counter('prefetchWastedBytes'),
      [Priority.speculation]: metrics.counter('speculatedWastedBytes'),
      [Priority.fill]: metrics.counter('fillWastedBytes'),
    },
  };
}

export type LazyCounters = ReturnType<typeof lazyCounters>;
