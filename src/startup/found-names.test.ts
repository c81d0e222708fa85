import { expect, test } from 'vitest';
import { type FoundNames, NameLog, readNames } from './found-names.js';
import { node } from './languages/node.js';
import { python } from './languages/python.js';

const file = (text: string) => ({ head: Buffer.from(text), tail: Buffer.alloc(0), size: text.length });

test('what files name is the same on the other side of a message, files that name nothing included', () => {
  const log = new NameLog();
  const found: FoundNames[] = [];
  readNames(log.take(), found);
  log.add(3, python, file('from . import a, b\nimport c.d\n'));
  log.add(70_000, python, file('pass\n'));
  readNames(log.take(), found);
  log.add(70_001, node, file("require('./e')"));
  log.add(70_002, node, file('let a;'));
  log.add(70_003, node, file('{"main":"a\\n\\tb"}'));
  readNames(log.take(), found);
  expect(found).toEqual([
    { entry: 3, language: 'python', names: ['. a b', 'c.d'] },
    { entry: 70_000, language: 'python', names: [] },
    { entry: 70_001, language: 'node', names: ['r./e'] },
    { entry: 70_003, language: 'node', names: ['{"main":"a\\n\\tb"}'] },
  ]);
});
