import { InvalidArgumentError } from 'commander';
import { describe, expect, test } from 'vitest';
import { byteRate, byteSize, seconds, wholeNumber, workerCount } from './numbers.js';

describe('numbers of the command line', () => {
  test.each([
    [byteSize, '0', 0],
    [byteSize, '20G', 20 * 2 ** 30],
    [byteSize, '1.5MiB', 1.5 * 2 ** 20],
    [byteSize, '500kb', 500 * 1024],
    [byteSize, '8191T', 8191 * 2 ** 40],
    [byteRate, '1', 1],
    [wholeNumber, '65', 65],
    [workerCount, '64', 64],
    [seconds, '0.5', 0.5],
  ])('%o takes %s', (parse, text, value) => {
    expect(parse(text)).toBe(value);
  });

  test.each([
    [byteSize, '', 'such as 500M'],
    [byteSize, '-1', 'such as 500M'],
    [byteSize, '1e9', 'such as 500M'],
    [byteSize, '8192T', 'at most 8191T'],
    [byteSize, '999999999999T', 'at most 8191T'],
    [byteRate, '0', 'at least 1 byte per second'],
    [byteRate, '0.9', 'at least 1 byte per second'],
    [byteRate, '9000T', 'at most 8191T'],
    [workerCount, '0', 'from 1 to 64'],
    [workerCount, '65', 'from 1 to 64'],
    [workerCount, '1.5', 'from 1 to 64'],
    [wholeNumber, '0x10', 'a whole number'],
    [seconds, '0', 'from 0.001'],
    [seconds, '86401', 'to 86400'],
    [seconds, 'NaN', 'from 0.001'],
  ])('%o refuses %s', (parse, text, message) => {
    expect(() => parse(text)).toThrow(InvalidArgumentError);
    expect(() => parse(text)).toThrow(message);
  });
});
