import { execFileSync } from 'node:child_process';
import { existsSync, realpathSync } from 'node:fs';
import { expect, test } from 'vitest';
import { closureOf, filesBelow, linksOf } from '../../../test/support/language-links.js';
import { perl, perlModules } from './perl.js';

test('the modules that a file uses, and its own name', () => {
  const source = `#!/usr/bin/perl
package A::B;
use 5.010; use strict; use POSIX qw(floor);
use parent -norequire, 'Not';
use parent qw(C::D E);
use base 'F::G';
require H::I;
  use J;
BEGIN {
    require K;
}
sub lazy {
    require L;
    use M;
}

=head1 NAME

use N;

=cut

require "o.pl";
require $p;
package Q;
__END__
use R;
`;
  expect(perlModules(Buffer.from(source))).toEqual([
    ...['pA::B', 'mstrict', 'mPOSIX', 'mparent', 'mC::D', 'mE', 'mbase', 'mF::G', 'mH::I', 'mJ', 'mK', 'mM'],
  ]);
});

test('what is tried in one line counts, and what is called or has a condition does not, however it is indented', () => {
  const source = `package A;
BEGIN { eval q{ use B::C qw( d ) } };
my $has = eval { require E; 1 };
  eval {require F}; my $x = sub { eval { require G } };
if ($] < 5.008) {
    require H;
    use I;
}
sub called
{
\tmy $self = shift;
    if ($self) {
\tfor (1) {
\t    require J; # "x"
\t}
    }
}
eval {
    require K;
};
`;
  expect(perlModules(Buffer.from(source))).toEqual(['pA', 'mB::C', 'mE', 'mF', 'mI', 'mK']);
  const started = performance.now();
  for (const text of [
    'use'.repeat(21_000),
    'eval{use '.repeat(7000),
    `${' '.repeat(200)}eval { require A; `.repeat(300),
  ])
    perlModules(Buffer.from(text));
  expect(performance.now() - started).toBeLessThan(2000);
});

test('modules lead to modules by the order of @INC, and to their part in C', () => {
  const module = (name: string, text = ''): string => `package ${name};\n${text}`;
  const { links } = linksOf(perl, {
    '/usr/bin/run': '#!/usr/bin/perl\nuse strict;\nuse X::Y;\n',
    '/usr/lib/x86_64-linux-gnu/perl-base/strict.pm': module('strict'),
    '/usr/share/perl/5.36.0/strict.pm': module('strict'),
    '/usr/share/perl/5.36': '-> 5.36.0',
    '/usr/share/perl5/X/Y.pm': module('X::Y', 'use strict;\nuse Z;\n'),
    '/usr/lib/x86_64-linux-gnu/perl/5.36/Z.pm': module('Z'),
    '/usr/lib/x86_64-linux-gnu/perl/5.36/auto/Z/Z.so': '',
    '/elsewhere/Z.pm': module('Other'),
  });
  const base = '/usr/lib/x86_64-linux-gnu/perl-base/strict.pm';
  expect(Object.fromEntries(links)).toEqual({
    '/usr/bin/run': [base, '/usr/share/perl5/X/Y.pm'],
    '/usr/share/perl5/X/Y.pm': [base, '/usr/lib/x86_64-linux-gnu/perl/5.36/Z.pm'],
    '/usr/lib/x86_64-linux-gnu/perl/5.36/Z.pm': ['/usr/lib/x86_64-linux-gnu/perl/5.36/auto/Z/Z.so'],
  });
});

// The oracle is %INC.
test('a program leads to the modules that Perl loads for it', () => {
  const program = 'use POSIX; use Getopt::Long; use File::Temp; use IO::Socket; use Cwd; use List::Util;\n';
  const said = execFileSync(
    'perl',
    ['-e', `${program}print join("\\n", values %INC), "\\n\\n", join("\\n", @INC), "\\n"`],
    {
      encoding: 'utf8',
    },
  );
  const [loaded = [], roots = []] = said.split('\n\n').map((part) => part.split('\n').filter((line) => line !== ''));
  const files = { ...filesBelow(roots.filter((root) => existsSync(root))), '/main.pl': program };
  const found = closureOf(linksOf(perl, files).links, '/main.pl');
  const wanted = loaded.map((path) => realpathSync(path));
  expect(wanted.length).toBeGreaterThan(20);
  expect(wanted.filter((path) => !found.has(path)).length).toBeLessThanOrEqual(0.2 * wanted.length);
});
