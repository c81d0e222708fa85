import { ClipError } from './errors.js';

/** Returns a value with its type, or throws a ClipError USAGE with its place, the expected kind of value and the found one. */
export type Check<T> = (value: unknown, where: string) => T;

/** A longer string is cut in errors: it may be the contents of a file. */
const SHOWN_CHARACTERS = 60;

/** A value for an error message: a simple value itself, else its kind. */
export function shown(value: unknown): string {
  if (typeof value === 'string') {
    const text = JSON.stringify(value.slice(0, SHOWN_CHARACTERS));
    return value.length > SHOWN_CHARACTERS ? `${text}… (${value.length} characters)` : text;
  }
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object' && value !== null) return 'an object';
  return typeof value === 'function' || typeof value === 'symbol' ? `a ${typeof value}` : String(value);
}

export function reject(value: unknown, where: string, expected: string): never {
  const found = value === undefined ? 'but is missing' : `not ${shown(value)}`;
  throw new ClipError('USAGE', `${where} must be ${expected}, ${found}`);
}

/** A check by `accepts`; `expected` describes the accepted values in errors. */
export function checked<T>(expected: string, accepts: (value: unknown) => boolean): Check<T> {
  return (value, where) => (accepts(value) ? (value as T) : reject(value, where, expected));
}

export const string: Check<string> = checked('a string', (value) => typeof value === 'string');

export const text = (max: number): Check<string> =>
  checked(
    `a string of 1 to ${max} characters`,
    (value) => typeof value === 'string' && value.length > 0 && value.length <= max,
  );

export const boolean: Check<boolean> = checked('true or false', (value) => typeof value === 'boolean');

export const number = (min: number, max: number): Check<number> =>
  checked(
    `a number from ${min} to ${max}`,
    (value) => typeof value === 'number' && value >= min && value <= max, // NaN is neither
  );

export const oneOf = <T extends string>(...values: readonly T[]): Check<T> =>
  checked(`one of ${values.join(', ')}`, (value) => values.includes(value as T));

export const listOf =
  <T>(check: Check<T>, max: number): Check<readonly T[]> =>
  (value, where) =>
    Array.isArray(value) && value.length > 0 && value.length <= max
      ? value.map((item, i) => check(item, `${where}[${i}]`))
      : reject(value, where, `a list of 1 to ${max}`);

export const anyObject: Check<Record<string, unknown>> = checked(
  'an object',
  (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
);

export const anyFunction: Check<(...args: never[]) => unknown> = checked(
  'a function',
  (value) => typeof value === 'function',
);

type Shape = Readonly<Record<string, Check<unknown>>>;
type Of<S extends Shape> = { [K in keyof S]: ReturnType<S[K]> };

/** An object with these fields; those in `optional` may be absent. Its other fields are ignored. */
export function fields<R extends Shape, O extends Shape>(required: R, optional: O): Check<Of<R> & Partial<Of<O>>> {
  return (value, where) => {
    const found = anyObject(value, where);
    const result: Record<string, unknown> = {};
    for (const [name, check] of Object.entries(required)) result[name] = check(found[name], `${where}.${name}`);
    for (const [name, check] of Object.entries(optional)) {
      if (found[name] !== undefined) result[name] = check(found[name], `${where}.${name}`);
    }
    return result as Of<R> & Partial<Of<O>>;
  };
}

/** An object with these fields and no others: an unknown field is an error. */
export function object<R extends Shape, O extends Shape>(required: R, optional: O): Check<Of<R> & Partial<Of<O>>> {
  const known = fields(required, optional);
  return (value, where) => {
    const result = known(value, where);
    for (const [name, found] of Object.entries(anyObject(value, where))) {
      if (!Object.hasOwn(required, name) && !Object.hasOwn(optional, name)) reject(found, `${where}.${name}`, 'absent');
    }
    return result;
  };
}

/** The options of a public function: as `object`, and the error for an unknown one lists those that there are. */
export function optionsOf<R extends Shape, O extends Shape>(required: R, optional: O): Check<Of<R> & Partial<Of<O>>> {
  const known = fields(required, optional);
  const names = [...Object.keys(required), ...Object.keys(optional)];
  return (value, where) => {
    const result = known(value, where);
    const unknown = Object.keys(anyObject(value, where)).find((name) => !names.includes(name));
    if (unknown === undefined) return result;
    throw new ClipError('USAGE', `${where}.${unknown} is not an option`, { hint: `options are ${names.join(', ')}` });
  };
}
