import { createLogger, type Logger, type LogOptions } from '../metrics/index.js';

/** The methods of a logger that the engine uses. */
type Level = 'debug' | 'info' | 'warn' | 'error' | 'fatal';

/**
 * A logger that is made at its first line: a server that takes over from a killed one serves before it loads a logger.
 * Children are made of it the same way.
 */
export function lazyLogger(options: LogOptions): Logger {
  return deferred(() => createLogger(options));
}

function deferred(make: () => Logger): Logger {
  let logger: Logger | null = null;
  const get = (): Logger => {
    logger ??= make();
    return logger;
  };
  const child = (bindings: Record<string, unknown>): Logger => deferred(() => get().child(bindings));
  return new Proxy({} as Logger, {
    get(_target, name: keyof Logger) {
      if (name === 'child' && logger === null) return child;
      const value = get()[name as Level];
      return typeof value === 'function' ? (value as () => void).bind(get()) : value;
    },
  });
}
