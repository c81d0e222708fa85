import { expect, test } from 'vitest';
import { nodeRequests } from './node-requests.js';

const requests = (source: string): string[] => nodeRequests(Buffer.from(source));

test('every way to ask for a module while a file is loaded', () => {
  const source = `'use strict';
const a = require('./a'), fs = require("fs"), b = require( "b/sub" );
var c = require(\`@scope/c\`),
    d = require('./d.json');
if (process.env.NODE_ENV === 'production') {
  module.exports = require('./production.js');
} else {
  module.exports = require('./development.js');
}
try {
  require('optional');
} catch {
}
module.exports = {
  e: require('./e'),
};
(function (root) {
  require('./inside');
})(this);
!function(){require("./minified")}();
tslib.__exportStar(require("./f"), exports);
`;
  const module = `import g from './g.js';
import { h,
  i } from "h";
import './side-effect.mjs';
import"./close";export{j}from"./j";
export * from '#internal';
export * as k from '../k';
import path from 'node:path';
`;
  expect(requests(source)).toEqual([
    ...['r./a', 'rb/sub', 'r@scope/c', 'r./d.json', 'r./production.js', 'r./development.js', 'roptional', 'r./e'],
    ...['r./inside', 'r./minified', 'r./f'],
  ]);
  expect(requests(module)).toEqual([
    ...['i./g.js', 'ih', 'i./side-effect.mjs', 'i./close', 'i./j'],
    ...['i#internal', 'i../k'],
  ]);
  expect(requests(`import a from 'a';\n${source}`)).toEqual(['ia']);
});

test('a request inside a function does not run then', () => {
  const source = `
function lazy() {
  return require('one');
}
const two = () => require('two');
module.exports = {
  get three() {
    return require('three');
  },
  four: function () {
    if (x) {
      return require('four');
    }
  },
  five: async () => {
    require('five');
  },
};
class Six {
  static load(a, b) {

// a comment
    return require('six');
  }
}
Object.defineProperty(exports, 'seven', { get: function () { return require('seven'); } });
`;
  expect(requests(source)).toEqual([]);
});

test('what only looks like a request, and what is cut off', () => {
  const source = `__webpack_require__('a'); obj.require('b'); require(name); require('c' + d); require('e f');
Array.from('g'); from("h"; "from" 'i'; transform 'j'; import('lazy'); require.resolve('k'); important'l';`;
  expect(requests(source)).toEqual([]);
  expect(requests("require('cut")).toEqual([]);
  expect(requests('require(')).toEqual([]);
  expect(requests('import')).toEqual([]);
  expect(requests(`require('${'x'.repeat(300)}')`)).toEqual([]);
});

test('the time for a file is bounded, whatever it is', () => {
  const half = Math.floor(32 * 1024);
  const hostile = [
    '  require("a")\n'.repeat(half / 15),
    `${' '.repeat(1000)}\n`.repeat(16) + "   require('a')\n".repeat(1000),
    Array.from({ length: 120 }, (_, i) => `${' '.repeat(i)}{\n`).join('') + "  require('a');".repeat(1600),
    `f(${'('.repeat(200)}\n`.repeat(100) + "  require('b')\n".repeat(700),
    `${'a ('.repeat(130)}\n`.repeat(40) + "  require('b')\n".repeat(900),
    'from '.repeat(half / 5),
  ];
  for (const source of hostile) {
    const started = performance.now();
    requests(source.slice(0, half));
    expect(performance.now() - started).toBeLessThan(2000);
  }
});
