/** One line of a metric: its labels, and the name of its value in `Metrics`. */
export interface MetricSeries {
  readonly labels: Readonly<Record<string, string>>;
  readonly key: string;
}

/** A metric as monitoring sees it. docs/metrics.md is generated from these. */
export interface MetricDefinition {
  /** "clip_…", with its unit; counters end in _total. */
  readonly name: string;
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly help: string;
  readonly series: readonly MetricSeries[];
}

/** Where bytes come from: the values of the label `source`. */
export type Source = 'registry' | 'mirror' | 'layout' | 's3' | 'file' | 'content_cache' | 'disk_cache';
export const SOURCES: readonly Source[] = ['registry', 'mirror', 'layout', 's3', 'file', 'content_cache', 'disk_cache'];

/** Of FUSE requests: the values of the label `operation`. */
export const FUSE_OPERATIONS = [
  'read',
  'lookup',
  'getattr',
  'readdir',
  'readlink',
  'xattr',
  'statfs',
  'other',
] as const;

/** Of failed reads: the codes of errors, and `OTHER` for what is no error of clip's. */
const FAULTS = [
  'BAD_FORMAT',
  'BAD_REFERENCE',
  'NOT_FOUND',
  'UNAUTHORIZED',
  'NO_PLATFORM',
  'UNSUPPORTED',
  'DIGEST_MISMATCH',
  'NETWORK',
  'LIMIT',
  'BUSY',
  'CONFLICT',
  'PERMISSION',
  'SYSTEM',
  'ABORTED',
  'USAGE',
  'OTHER',
] as const;

const one = (key: string): readonly MetricSeries[] => [{ labels: {}, key }];
const by = (label: string, keys: Readonly<Record<string, string>>): readonly MetricSeries[] =>
  Object.entries(keys).map(([value, key]) => ({ labels: { [label]: value }, key }));
const each = (label: string, values: readonly string[], key: (value: string) => string): readonly MetricSeries[] =>
  values.map((value) => ({ labels: { [label]: value }, key: key(value) }));

const define =
  (type: MetricDefinition['type']) =>
  (name: string, help: string, series: string | readonly MetricSeries[]): MetricDefinition => ({
    name,
    type,
    help,
    series: typeof series === 'string' ? one(series) : series,
  });
const counter = define('counter');
const gauge = define('gauge');
const histogram = define('histogram');

/**
 * Every metric of a server, and the only ones. All labels have few values, which are known beforehand: a busy machine has as many
 * series as an idle one.
 */
export const CATALOGUE: readonly MetricDefinition[] = [
  gauge('clip_mounts', 'Places where images are mounted', 'mounts'),
  gauge('clip_images', 'Images that are mounted somewhere', 'images'),
  histogram('clip_first_exec_seconds', 'From the request for a container to its first exec', 'firstExecSeconds'),
  counter('clip_server_restarts_total', 'Server processes lost since the keeper started', 'restarts'),
  gauge('clip_uptime_seconds', 'Since the keeper started', 'uptimeSeconds'),
  gauge(
    'clip_resident_memory_bytes',
    'Memory of the processes of clipd',
    by('process', { server: 'serverRss', keeper: 'keeperRss', standby: 'standbyRss', client: 'clientRss' }),
  ),

  counter(
    'clip_reads_total',
    'Reads that the kernel asked for: answered from the span cache at once, or passed to the I/O thread',
    by('result', { hit: 'fuseHits', miss: 'missReads' }),
  ),
  counter(
    'clip_read_bytes_total',
    'Bytes that these reads gave',
    by('result', { hit: 'fuseHitBytes', miss: 'missBytes' }),
  ),
  histogram(
    'clip_read_wait_seconds',
    'How long reads waited that were passed to the I/O thread, by the source of their slowest bytes',
    each('source', SOURCES, (source) => `readSeconds.${source}`),
  ),
  gauge('clip_reads_in_flight', 'Reads that wait now', 'readsInFlight'),
  counter('clip_reads_queued_total', 'Reads that waited for others of their mount', 'missQueued'),
  counter('clip_reads_interrupted_total', 'Reads whose program got a signal or ended', 'missInterrupted'),
  counter('clip_reads_timed_out_total', 'Reads that ended with EIO after --read-timeout', 'missTimedOut'),
  counter('clip_reads_failed_total', 'Reads that ended with EIO because no source had their bytes', 'missErrors'),
  counter(
    'clip_read_faults_total',
    'The causes of failed reads, by the code of the error',
    each('code', FAULTS, (code) => `readFault.${code}`),
  ),

  counter(
    'clip_fuse_requests_total',
    'FUSE requests',
    each('operation', FUSE_OPERATIONS, (operation) => `fuseOperation.${operation}`),
  ),
  counter('clip_fuse_interrupts_total', 'Requests that the kernel interrupted', 'fuseInterrupts'),
  counter('clip_fuse_faults_total', 'Requests answered with EIO because the tree is damaged', 'fuseFaults'),
  counter(
    'clip_fuse_hits_undone_total',
    'Hits whose span was evicted while it was read; they became misses',
    'fuseChanged',
  ),

  counter(
    'clip_source_bytes_total',
    'Bytes by source: compressed, except those of the disk cache',
    each('source', SOURCES, (source) => `sourceBytes.${source}`),
  ),
  histogram(
    'clip_source_seconds',
    'From a request to its last byte: range requests, lookups in the content cache, checks of spans in the disk cache',
    each('source', SOURCES, (source) => `sourceSeconds.${source}`),
  ),
  counter('clip_source_retries_total', 'Requests to registries that were tried again', 'sourceRetries'),
  counter('clip_source_redirects_total', 'Redirects that were followed', 'sourceRedirects'),
  counter('clip_source_tokens_total', 'Tokens asked of registries', 'sourceTokens'),
  counter('clip_range_requests_total', 'Range requests to the sources of images', 'requests'),
  gauge('clip_range_requests_in_flight', 'Range requests under way', 'requestsActive'),
  gauge('clip_spans_queued', 'Spans that wait for a request', 'spansQueued'),

  counter(
    'clip_fetch_bytes_total',
    'Compressed bytes fetched, by reason',
    by('reason', {
      demand: 'demandBytes',
      readahead: 'readaheadBytes',
      prefetch: 'prefetchBytes',
      speculation: 'speculatedBytes',
      fill: 'fillBytes',
    }),
  ),
  counter(
    'clip_fetch_useful_bytes_total',
    'Bytes fetched ahead that were read later',
    by('reason', {
      readahead: 'readaheadUsefulBytes',
      prefetch: 'prefetchUsefulBytes',
      speculation: 'speculatedUsefulBytes',
      fill: 'fillUsefulBytes',
    }),
  ),
  counter(
    'clip_fetch_wasted_bytes_total',
    'Bytes fetched ahead that went without having been read',
    by('reason', {
      readahead: 'readaheadWastedBytes',
      prefetch: 'prefetchWastedBytes',
      speculation: 'speculatedWastedBytes',
      fill: 'fillWastedBytes',
    }),
  ),
  counter(
    'clip_profile_lookups_total',
    'Mounts that looked for a profile of earlier starts, and faults on the way',
    by('result', {
      kept: 'profilesFoundKept',
      shared: 'profilesFoundShared',
      registry: 'profilesFoundAttached',
      none: 'profilesNotFound',
      refused: 'profilesRefused',
      failed: 'profileLookupsFailed',
    }),
  ),
  counter(
    'clip_profiles_published_total',
    'Profiles that were put into the content cache, or could not be',
    by('result', { ok: 'profilesPublished', failed: 'profilesNotPublished' }),
  ),
  counter('clip_spans_fetched_total', 'Spans whose compressed bytes were fetched', 'spansFetched'),
  counter(
    'clip_span_lookups_total',
    'Spans of reads on the I/O thread: there, or to be waited for',
    by('result', { hit: 'spanHits', miss: 'spanMisses' }),
  ),
  counter(
    'clip_spans_failed_total',
    'Spans that no source could give; each try of a waiting read counts',
    'failedSpans',
  ),
  counter('clip_spans_aborted_total', 'Spans given up because no reader waited any more', 'abortedSpans'),
  counter('clip_spans_dropped_total', 'Spans fetched ahead and dropped for lack of room', 'skippedBackground'),
  counter('clip_failovers_total', 'Spans that one source did not give and another was asked for', 'failovers'),
  counter(
    'clip_rival_fetches_total',
    'Spans fetched twice because a reader waited for the source of another image',
    'rivalFetches',
  ),

  counter(
    'clip_verification_failures_total',
    'Bytes that were not what the archive says. None of them reached a reader',
    by('kind', {
      digest: 'digestMismatches',
      inflated: 'badContent',
      content_cache: 'contentPoisoned',
      disk_cache: 'spansDamaged',
      legacy_hash: 'legacyWrongHashes',
    }),
  ),
  counter('clip_spans_checked_total', 'Spans of an earlier run found intact in the disk cache', 'spansChecked'),

  counter('clip_inflate_cpu_seconds_total', 'CPU time of the inflate workers', 'inflateCpuSeconds'),
  gauge('clip_inflate_queued_spans', 'Spans that wait for an inflate worker', 'inflateQueue'),
  counter('clip_inflate_crashes_total', 'Inflate workers that died and were replaced', 'inflateWorkerCrashes'),

  gauge('clip_cache_bytes', 'Bytes of spans in the disk cache', 'cacheUsedBytes'),
  gauge('clip_cache_max_bytes', 'Cap of the disk cache', 'cacheMaxBytes'),
  gauge('clip_cache_writable', '1 unless the disk refuses writes', 'cacheWritable'),
  counter('clip_cache_evicted_spans_total', 'Spans evicted from the disk cache', 'cacheEvictedSpans'),
  counter('clip_cache_evicted_bytes_total', 'Bytes evicted from the disk cache', 'cacheEvictedBytes'),
  counter(
    'clip_cache_errors_total',
    'Errors of the disk of the cache; no read failed by them',
    by('operation', { read: 'cacheReadErrors', write: 'cacheWriteErrors' }),
  ),
  counter(
    'clip_cache_refused_total',
    'Spans that were not cached because nothing could be evicted',
    'cacheRefusedFills',
  ),
  gauge('clip_memory_cache_bytes', 'Bytes of spans in memory because the disk does not take them', 'memoryCacheBytes'),

  counter(
    'clip_content_cache_lookups_total',
    'Lookups in the cache that is shared with other machines',
    by('result', {
      hit: 'contentHits',
      miss: 'contentMisses',
      error: 'contentErrors',
      timeout: 'contentTimeouts',
      skipped: 'contentSkipped',
    }),
  ),
  counter('clip_content_cache_bytes_total', 'Compressed bytes from the shared cache', 'contentBytes'),
  counter('clip_content_cache_stored_total', 'Spans stored in the shared cache', 'contentStored'),
  counter(
    'clip_content_cache_dropped_total',
    'Spans not stored: the queue was full or the cache away',
    'contentDropped',
  ),
  gauge('clip_content_cache_queue_bytes', 'Bytes that wait to be stored in the shared cache', 'contentQueueBytes'),
  gauge('clip_content_cache_available', '1 unless the shared cache is given up on for now', 'contentAvailable'),
];
