/** Work that is over. Times are milliseconds of performance.now(). */
export interface FinishedWork {
  readonly name: 'index' | 'mount' | 'fetch' | 'inflate';
  readonly started: number;
  readonly ended: number;
  readonly attributes: Readonly<Record<string, string | number | boolean>>;
  /** Why it failed; undefined: it did not. */
  readonly error?: string | undefined;
}

export interface Telemetry {
  work(work: FinishedWork): void;
  /** Resolves when everything was sent, or given up. */
  close(): Promise<void>;
}

/** Where nothing is sent. */
export const NO_TELEMETRY: Telemetry = { work() {}, close: async () => {} };

const PACKAGES = [
  '@opentelemetry/api',
  '@opentelemetry/sdk-trace-base',
  '@opentelemetry/exporter-trace-otlp-http',
  '@opentelemetry/resources',
] as const;

/** With a collector in the environment, as OpenTelemetry's specification has it ("OTLP Exporter Configuration"). */
export function wantsTelemetry(env: NodeJS.ProcessEnv = process.env): boolean {
  const { OTEL_EXPORTER_OTLP_ENDPOINT: all, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: traces } = env;
  return (
    env.OTEL_SDK_DISABLED !== 'true' && env.OTEL_TRACES_EXPORTER !== 'none' && ((all ?? '') || (traces ?? '')) !== ''
  );
}

/** A process that ends waits for its collector this long. */
const CLOSE_MS = 3000;

/**
 * Sends spans to the collector that the environment names, by OpenTelemetry's SDK, which is loaded here. Nothing that goes wrong there
 * fails the work itself.
 * @param onProblem gets one line, and what to do
 */
export async function openTelemetry(
  part: string,
  version: string,
  onProblem: (message: string, hint: string) => void,
): Promise<Telemetry> {
  let sdk: [
    typeof import('@opentelemetry/api'),
    typeof import('@opentelemetry/sdk-trace-base'),
    typeof import('@opentelemetry/exporter-trace-otlp-http'),
    typeof import('@opentelemetry/resources'),
  ];
  try {
    sdk = await Promise.all([
      import('@opentelemetry/api'),
      import('@opentelemetry/sdk-trace-base'),
      import('@opentelemetry/exporter-trace-otlp-http'),
      import('@opentelemetry/resources'),
    ]);
  } catch {
    onProblem(
      'OTEL_EXPORTER_OTLP_ENDPOINT is set, and the libraries of OpenTelemetry are not installed: no spans are sent',
      `npm install ${PACKAGES.join(' ')}, with -g where clipfs is installed with -g; or unset the variable`,
    );
    return NO_TELEMETRY;
  }
  const [{ SpanStatusCode }, { BasicTracerProvider, BatchSpanProcessor }, { OTLPTraceExporter }, resources] = sdk;
  const own = resources.resourceFromAttributes({
    'service.name': process.env.OTEL_SERVICE_NAME || 'clip',
    'service.version': version,
    'clip.part': part,
    'process.pid': process.pid,
  });
  const given = resources.detectResources({ detectors: [resources.envDetector, resources.hostDetector] });
  let told = false;
  const notSent = (why: string): void => {
    if (told) return;
    told = true;
    onProblem(
      `spans for OpenTelemetry cannot be sent: ${why}`,
      'check that a collector takes OTLP over HTTP at OTEL_EXPORTER_OTLP_ENDPOINT (its port is 4318 by default)',
    );
  };
  const exporter = new OTLPTraceExporter();
  const provider = new BasicTracerProvider({
    // OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME are the user's word.
    resource: own.merge(given),
    spanProcessors: [
      new BatchSpanProcessor({
        export: (spans, done) =>
          exporter.export(spans, (result) => {
            if (result.code !== 0) notSent(result.error?.message ?? 'it gives no reason');
            done(result);
          }),
        forceFlush: () => exporter.forceFlush(),
        shutdown: () => exporter.shutdown(),
      }),
    ],
  });
  const tracer = provider.getTracer('clip', version);
  const time = (milliseconds: number): number => performance.timeOrigin + milliseconds;
  return {
    work({ name, started, ended, attributes, error }) {
      const prefixed = Object.fromEntries(Object.entries(attributes).map(([key, value]) => [`clip.${key}`, value]));
      const span = tracer.startSpan(`clip ${name}`, { startTime: time(started), attributes: prefixed });
      if (error !== undefined) span.setStatus({ code: SpanStatusCode.ERROR, message: error });
      span.end(time(ended));
    },
    async close() {
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<void>((resolve) => {
        timer = setTimeout(() => {
          notSent(`no answer within ${CLOSE_MS / 1000} s`);
          resolve();
        }, CLOSE_MS);
      });
      await Promise.race([provider.shutdown().catch(() => {}), late]);
      clearTimeout(timer);
    },
  };
}
