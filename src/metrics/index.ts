/**
 * Counters, gauges, histograms, the catalogue of the metrics that monitoring sees, the logger and the package's version. What is counted
 * belongs to the folders that count. Imports nothing. Runs in every process; each process has its own figures.
 */

export { CATALOGUE, FUSE_OPERATIONS, type MetricDefinition, SOURCES, type Source } from './catalogue.js';
export { type HistogramSample, type Metric, type MetricSample, readMetrics } from './families.js';
export { Histogram, SECONDS } from './histogram.js';
export { createLogger, type Logger, type LogOptions, silentLogger } from './log.js';
export { LOG_NAME, logEntry, logLine } from './log-line.js';
export { redact } from './redact.js';
export { Counter, Metrics } from './registry.js';
export { type FinishedWork, NO_TELEMETRY, openTelemetry, type Telemetry, wantsTelemetry } from './telemetry.js';
export { packageVersion } from './version.js';
