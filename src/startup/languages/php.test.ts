import { expect, test } from 'vitest';
import { linksOf } from '../../../test/support/language-links.js';
import { php } from './php.js';

test('a file leads to those that it includes by a path, and Composer’s loader to its files', () => {
  const { links } = linksOf(php, {
    '/app/index.php': `<?php
require __DIR__ . '/vendor/autoload.php';
require_once('config.php');
include dirname(__FILE__)."/inc/" . 'a.inc';
require $file;
include 'missing.php';
`,
    '/app/config.php': '<?php return [];',
    '/app/inc/a.inc': '',
    '/app/vendor/autoload.php': "<?php\nrequire_once __DIR__ . '/composer/autoload_static.php';\n",
    '/app/vendor/composer/autoload_static.php': `<?php
  'abc' => __DIR__ . '/..' . '/symfony/polyfill/bootstrap.php',
  'A\\\\' => array(0 => __DIR__ . '/..' . '/a/src'),
`,
    '/app/vendor/symfony/polyfill/bootstrap.php': '',
  });
  expect(Object.fromEntries(links)).toEqual({
    '/app/index.php': ['/app/vendor/autoload.php', '/app/config.php', '/app/inc/a.inc'],
    '/app/vendor/autoload.php': ['/app/vendor/composer/autoload_static.php'],
    '/app/vendor/composer/autoload_static.php': ['/app/vendor/symfony/polyfill/bootstrap.php'],
  });
});

test('the time for a file is bounded, whatever it is', () => {
  const started = performance.now();
  for (const text of [
    "require 'a'".repeat(6000),
    "=> 'a' . ".repeat(7000),
    'require('.repeat(8000),
    `include ${"'a".repeat(30_000)}`,
  ])
    php.scan({ head: Buffer.from(text.slice(0, 65_536)), tail: Buffer.alloc(0), size: text.length });
  for (const space of [
    ' '.repeat(65_000),
    '=>'.repeat(32_000),
    `=>${' '.repeat(64_000)}`,
    `require${' ('.repeat(32_000)}`,
  ])
    php.scan({ head: Buffer.from(space), tail: Buffer.alloc(0), size: space.length });
  expect(performance.now() - started).toBeLessThan(2000);
});
