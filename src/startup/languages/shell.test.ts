import { expect, test } from 'vitest';
import { linksOf } from '../../../test/support/language-links.js';
import { shell } from './shell.js';

test('a script leads to the programs that it runs, and to the files that it names', () => {
  const programs = ['grep', 'sed', 'dirname', 'java', 'uname', 'tr', 'never', 'word', 'echo', 'setpriv'];
  const { links } = linksOf(shell, {
    ...Object.fromEntries(programs.map((name) => [`/usr/bin/${name}`, name])),
    '/usr/local/bin/sed': 'mine',
    '/lib/init-functions': 'f',
    '/run': `#!/bin/sh
# never
. /lib/init-functions
if grep -q word "$1" | tr a b; then echo "$(dirname "$0")"; fi
JAVA=java
case \`uname\` in
  *) sed s/a/b/ ;;
esac
exec setpriv --x "$JAVA" "$@"
`,
    '/none.sh': 'cd /nowhere\nabsent\n',
  });
  expect(Object.fromEntries(links)).toEqual({
    '/run': [
      ...['/lib/init-functions', '/usr/bin/grep', '/usr/bin/tr', '/usr/bin/dirname', '/usr/bin/java', '/usr/bin/uname'],
      ...['/usr/local/bin/sed', '/usr/bin/setpriv'],
    ],
  });
});

test('the time for a script is bounded, whatever it is', () => {
  const started = performance.now();
  for (const text of [
    '/a'.repeat(16_384),
    ';'.repeat(32_768),
    ' '.repeat(32_768),
    'exec '.repeat(6000),
    '/a/ '.repeat(8192),
  ])
    shell.scan({ head: Buffer.from(`#!/bin/sh\n${text}!`), tail: Buffer.alloc(0), size: text.length });
  expect(performance.now() - started).toBeLessThan(2000);
});
