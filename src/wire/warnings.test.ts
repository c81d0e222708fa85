import { expect, test } from 'vitest';
import { parseWarning } from './warnings.js';

test('a warning keeps what it is about, without what every line has', () => {
  const line = {
    level: 50,
    time: 0,
    pid: 1,
    hostname: 'h',
    name: 'server',
    mount: 3,
    error: 'HTTP 404',
    msg: 'a read failed',
  };
  expect(parseWarning(JSON.stringify(line))).toEqual({
    time: '1970-01-01T00:00:00.000Z',
    level: 'error',
    message: 'a read failed',
    fields: { mount: 3, error: 'HTTP 404' },
  });
});

test.each(['', 'Segmentation fault', 'null', '{"level":30,"time":1,"msg":"serving"}', '{"level":40,"time":"x"}'])(
  '%s is no warning',
  (line) => {
    expect(parseWarning(line)).toBeNull();
  },
);
