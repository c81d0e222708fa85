import { expect, test } from 'vitest';
import { pythonImports } from './python-imports.js';

const imports = (source: string): string[] => pythonImports(Buffer.from(source));

test('every way to write an import that runs when the module is loaded', () => {
  const source = `"""Docs that speak of import and of importlib."""
import os
import numpy.core, sys as system  # both
from . import (
    lib,  # a comment, with a comma
    matrixlib as _mat,
)
from ..compat import numpy \\
    as np, py3k
from .core import *; import hidden
from\tx.y import\tz
try:
    import fast
except ImportError:
    from . import slow
with suppress():
  if platform:

    # a comment
    import deep
important = 1
reimport os
import_module("no")
`;
  expect(imports(source)).toEqual([
    'os',
    'numpy.core',
    'sys',
    '. lib matrixlib',
    '..compat numpy py3k',
    '.core',
    'x.y z',
    'fast',
    '. slow',
    'deep',
  ]);
});

test('an import inside a function, a class, or for type checkers only, does not run then', () => {
  const source = `from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import one
if typing.TYPE_CHECKING:
    import two
def f(
    a,
):
    import three
@decorator
class C:
    import four
async def g():
    if a:
        import five
if __name__ == "__main__":
    import six
else:
    import seven
`;
  expect(imports(source)).toEqual(['typing TYPE_CHECKING', 'seven']);
});

test('Windows line ends, no line end at the end, and what is cut off or odd', () => {
  expect(imports('import a\r\nfrom b import (\r\n  c,\r\n  d)\r\nimport e')).toEqual(['a', 'b c d', 'e']);
  expect(imports('from a import (b, c')).toEqual(['a b c']);
  expect(imports('from a import (b,\n  c')).toEqual(['a b c']);
  expect(imports('from a import b, \\')).toEqual(['a b']);
  expect(imports('')).toEqual([]);
  expect(imports('import')).toEqual([]);
  expect(imports('import \n')).toEqual([]);
  expect(imports(`${' '.repeat(5000)}import far`)).toEqual([]);
});
