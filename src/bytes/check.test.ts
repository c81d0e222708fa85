import { describe, expect, test } from 'vitest';
import { anyFunction, boolean, fields, listOf, number, object, oneOf, string, text } from './check.js';
import { ClipError } from './errors.js';

const person = { name: text(5), age: number(0, 150) };

describe('a check', () => {
  test('gives what it takes', () => {
    const value = { name: 'Ada', age: 36, more: true };
    expect(fields(person, { tall: boolean })(value, 'it')).toEqual({ name: 'Ada', age: 36 });
    expect(object(person, { more: boolean })(value, 'it')).toEqual(value);
    expect(fields({}, { age: number(0, 150) })({ age: undefined }, 'it')).toEqual({});
  });

  test.each<[string, (where: string) => unknown, string]>([
    ['nothing', (w) => fields(person, {})(undefined, w), 'it must be an object, but is missing'],
    ['null', (w) => fields(person, {})(null, w), 'it must be an object, not null'],
    ['a list', (w) => fields(person, {})([], w), 'it must be an object, not a list'],
    ['a field', (w) => fields(person, {})({}, w), 'it.name must be a string of 1 to 5 characters, but is missing'],
    ['a text', (w) => boolean('yes', w), 'it must be true or false, not "yes"'],
    [
      'a long text',
      (w) => boolean('x'.repeat(100), w),
      `it must be true or false, not "${'x'.repeat(60)}"… (100 characters)`,
    ],
    ['a line break', (w) => boolean('a\nb', w), 'it must be true or false, not "a\\nb"'],
    ['a number', (w) => string(7, w), 'it must be a string, not 7'],
    ['no number', (w) => number(0, 1)(Number.NaN, w), 'it must be a number from 0 to 1, not NaN'],
    ['a function', (w) => string(() => {}, w), 'it must be a string, not a function'],
    ['an object', (w) => anyFunction({}, w), 'it must be a function, not an object'],
    ['one of', (w) => oneOf('a', 'b')('c', w), 'it must be one of a, b, not "c"'],
    ['an item', (w) => listOf(boolean, 2)([true, 1], w), 'it[1] must be true or false, not 1'],
    ['a stranger', (w) => object({}, {})({ x: 1 }, w), 'it.x must be absent, not 1'],
  ])('names %s, what was expected and what was found', (_name, check, message) => {
    expect(() => check('it')).toThrow(new ClipError('USAGE', message));
  });
});
