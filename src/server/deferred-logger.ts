import { createLogger, type Logger, type LogOptions } from '../metrics/index.js';

/** The methods of a logger that the engine uses. */
type Level = 'debug' | 'info' | 'warn' | 'error' | 'fatal';

/** What a logger and its children share: pino's children keep the level that they were made with. */
interface Family {
  level: string;
}

/**
 * A logger that is made at its first line: a server that takes over from a killed one serves before it loads a logger.
 * Children are made of it the same way. A level that is set holds for all of them, from their next line on.
 */
export function lazyLogger(options: LogOptions): Logger {
  return deferred(() => createLogger(options), { level: options.level ?? 'info' });
}

function deferred(make: () => Logger, family: Family): Logger {
  let logger: Logger | null = null;
  const get = (): Logger => {
    logger ??= make();
    if (logger.level !== family.level) logger.level = family.level;
    return logger;
  };
  const child = (bindings: Record<string, unknown>): Logger => deferred(() => get().child(bindings), family);
  return new Proxy({} as Logger, {
    get(_target, name: keyof Logger) {
      if (name === 'child') return child;
      const value = get()[name as Level];
      return typeof value === 'function' ? (value as () => void).bind(get()) : value;
    },
    set(_target, name, value: string) {
      if (name !== 'level') return false;
      family.level = value;
      return true;
    },
  });
}
