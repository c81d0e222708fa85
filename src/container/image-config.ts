import { FormatError } from '../bytes/index.js';

/** The part of an image's config that says how to run it (image-spec config.md), checked. */
export interface RunConfig {
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  /** NAME=value. */
  readonly env: readonly string[];
  /** "" when the image names none. */
  readonly workingDir: string;
  /** "" for root. */
  readonly user: string;
  /** Directories that the image expects to be there, in its volumes. */
  readonly volumes: readonly string[];
}

/** More than the kernel passes to a program (128 KiB a string, a quarter of the stack in all). */
const MAX_STRING = 128 * 1024;
const MAX_STRINGS = 10_000;

/**
 * @param config the image's config blob, as parsed JSON: it comes from the registry, so every field is checked
 * @throws FormatError naming the field
 */
export function runConfigOf(config: Readonly<Record<string, unknown>>, what: string): RunConfig {
  const inner = config.config ?? {};
  const fail = (field: string, expected: string): never => {
    throw new FormatError(`${what}: image config`, 0, `${field} is not ${expected}`, {
      hint: 'the image cannot be run as it is: build and push it again',
    });
  };
  if (typeof inner !== 'object' || inner === null || Array.isArray(inner)) return fail('config', 'an object');
  const fields = inner as Readonly<Record<string, unknown>>;
  const isText = (value: unknown): value is string =>
    typeof value === 'string' && value.length <= MAX_STRING && !value.includes('\0');
  const text = (name: string): string => {
    const value = fields[name] ?? '';
    return isText(value) ? value : fail(name, `a string of at most ${MAX_STRING} characters without NUL bytes`);
  };
  const list = (name: string): readonly string[] => {
    const value = fields[name] ?? [];
    const good = Array.isArray(value) && value.length <= MAX_STRINGS && value.every(isText);
    return good ? value : fail(name, `a list of strings without NUL bytes, each of at most ${MAX_STRING} characters`);
  };
  const keys = (name: string): readonly string[] => {
    const value = fields[name] ?? {};
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return fail(name, 'an object');
    const names = Object.keys(value);
    return names.length <= MAX_STRINGS && names.every((path) => isText(path) && path.startsWith('/'))
      ? names
      : fail(name, 'an object with absolute paths as names');
  };
  return {
    entrypoint: list('Entrypoint'),
    cmd: list('Cmd'),
    env: list('Env'),
    workingDir: text('WorkingDir'),
    user: text('User'),
    volumes: keys('Volumes'),
  };
}
