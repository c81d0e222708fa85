import type { Metrics } from '../metrics/index.js';
import { Priority } from './inflate-tasks.js';

/** Everything a LayerSet counts, under the names that `clipctl stats --json` shows. */
export function lazyCounters(metrics: Metrics) {
  const bytes = {
    [Priority.demand]: metrics.counter('demandBytes', 'Compressed bytes fetched because a reader waited for them'),
    [Priority.readahead]: metrics.counter('readaheadBytes', 'Compressed bytes fetched ahead of sequential readers'),
    [Priority.prefetch]: metrics.counter('prefetchBytes', 'Compressed bytes fetched by profile'),
    [Priority.fill]: metrics.counter('fillBytes', 'Compressed bytes fetched by background fill'),
  };
  return {
    bytes,
    requests: metrics.counter('requests', 'Range requests to the image source'),
    spansFetched: metrics.counter('spansFetched', 'Spans whose compressed bytes were fetched'),
    spanHits: metrics.counter('spanHits', 'Spans that a read found present'),
    spanMisses: metrics.counter('spanMisses', 'Spans that a read had to wait for'),
    spansChecked: metrics.counter('spansChecked', 'Spans of an earlier run found intact in the disk cache'),
    spansDamaged: metrics.counter('spansDamaged', 'Spans of an earlier run found damaged or incomplete, and refetched'),
    digestMismatches: metrics.counter(
      'digestMismatches',
      'Spans whose compressed bytes were not what the archive says',
    ),
    wrongHashes: metrics.counter(
      'legacyWrongHashes',
      'Files of version 1 archives whose content hash is not that of their content, which is right',
    ),
    badContent: metrics.counter('badContent', 'Spans that did not inflate to what the archive says'),
    failovers: metrics.counter('failovers', 'Spans that one source did not give and another was asked for'),
    rivals: metrics.counter('rivalFetches', 'Spans fetched twice because a reader waited for another image’s source'),
    failedSpans: metrics.counter('failedSpans', 'Spans given up after retries: their readers got an error'),
    abortedSpans: metrics.counter('abortedSpans', 'Spans given up because no reader waited any more'),
    skippedBackground: metrics.counter('skippedBackground', 'Spans fetched ahead and dropped for lack of room'),
    useful: {
      [Priority.readahead]: metrics.counter('readaheadUsefulBytes', 'Read-ahead that was read later'),
      [Priority.prefetch]: metrics.counter('prefetchUsefulBytes', 'Prefetched bytes that were read later'),
      [Priority.fill]: metrics.counter('fillUsefulBytes', 'Bytes fetched by background fill that were read later'),
    },
    wasted: {
      [Priority.readahead]: metrics.counter('readaheadWastedBytes', 'Read-ahead that went without having been read'),
      [Priority.prefetch]: metrics.counter(
        'prefetchWastedBytes',
        'Prefetched bytes that went without having been read',
      ),
      [Priority.fill]: metrics.counter('fillWastedBytes', 'Background fill that went without having been read'),
    },
  };
}

export type LazyCounters = ReturnType<typeof lazyCounters>;
