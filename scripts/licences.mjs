// The licences of everything that others wrote and that is part of dist/lib: packages in the bundle, and what is compiled into assets.
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

const APACHE = readFileSync('LICENSE', 'utf8');

/** Parts that do not come in as a module: the file they are part of, and their package or a note in place of one. */
const PARTS = [
  {
    file: 'inflate.wasm',
    package: 'assemblyscript',
    note: 'its standard library, compiled into inflate.wasm and inflate-shared.wasm',
  },
  { file: 'zstd.wasm', package: 'zstddec', note: "libzstd's decoder, compiled to zstd.wasm" },
  { file: 'report.html', package: 'uplot', note: 'its plots, in report.html' },
  {
    file: 'seccomp-moby.json',
    name: 'moby/profiles',
    licence: 'Apache-2.0',
    note: 'seccomp/default.json, commit 02e898b; Copyright 2012-2017 Docker, Inc.',
    text: APACHE,
  },
];

/** The file names under which packages keep their licence, and the notice that Apache-2.0 wants passed on. */
const LICENCE_FILE = /^(licen[cs]e|copying|notice)([.-].*)?$/i;

/** The directory of the package that a module belongs to; null for our own. */
export function packageOf(moduleId) {
  const at = moduleId.lastIndexOf('node_modules/');
  if (at < 0) return null;
  const [scope, name] = moduleId.slice(at + 'node_modules/'.length).split('/');
  return moduleId.slice(0, at) + path.join('node_modules', scope.startsWith('@') ? `${scope}/${name}` : scope);
}

function entry(directory, note) {
  const { name, version, license } = JSON.parse(readFileSync(path.join(directory, 'package.json'), 'utf8'));
  const files = readdirSync(directory).filter((file) => LICENCE_FILE.test(file));
  // Some packages of Amazon's SDK only name their licence. It has no copyright line to be kept, and its text is that of clip's own.
  if (files.length === 0 && license === 'Apache-2.0') return { name, version, licence: license, note, text: APACHE };
  if (files.length === 0) throw new Error(`${directory} has no licence file: it cannot be shipped`);
  const text = files
    .sort()
    .map((file) => readFileSync(path.join(directory, file), 'utf8').trim())
    .join('\n\n');
  return { name, version, licence: license, note, text };
}

/**
 * The text of THIRD_PARTY_LICENSES.
 * @param moduleIds of all modules in the bundle
 * @param assets    file names that lie beside it
 */
export function thirdPartyLicences(moduleIds, assets) {
  const directories = new Set(moduleIds.map(packageOf).filter((directory) => directory !== null));
  const entries = [...directories].map((directory) => entry(directory, 'bundled'));
  // The bundler puts helpers of its own between the modules.
  entries.push(entry('node_modules/rolldown', 'helper functions of the bundle'));
  for (const part of PARTS) {
    if (!assets.includes(part.file))
      throw new Error(`${part.file} is not shipped any more: take it out of scripts/licences.mjs`);
    entries.push(part.package === undefined ? part : entry(path.join('node_modules', part.package), part.note));
  }
  const known = new Set(
    PARTS.map(({ file }) => file).concat(
      'inflate-shared.wasm',
      'fold.wasm',
      'fold-shared.wasm',
      'crc64.wasm',
      'search.wasm',
    ),
  );
  const unknown = assets.filter((asset) => !known.has(asset));
  if (unknown.length > 0)
    throw new Error(`${unknown.join(', ')}: say in scripts/licences.mjs under which licence it is`);
  return `Other authors wrote these parts of clip. Packages that npm installs beside it bring their own licences.\n\n${format(entries)}`;
}

/** The licences of the packages in these directories. */
export function licenceText(directories) {
  return format(directories.map((directory) => entry(directory, 'bundled')));
}

function format(entries) {
  entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  const rule = '-'.repeat(100);
  const parts = entries.map(({ name, version, licence, note, text }) =>
    [rule, `${name}${version ? ` ${version}` : ''} (${licence}): ${note}`, rule, '', text.trim(), ''].join('\n'),
  );
  return parts.join('\n');
}
