import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Directories whose files may cite a page, and the kinds of files in them. Every Markdown file at the root counts as well. */
const DIRECTORIES = ['src', 'test', 'bench', 'demo', 'scripts', 'docs', 'contrib', 'examples', '.github', '.ci', 'bin'];
const TEXT = /\.(ts|mjs|js|c|sh|md|yml|json|service)$|^\.ci\/run$/;

/**
 * `docs/architecture.md, "Invariant 9"`: the form of CONTRIBUTING.md, "How the code is written". docs/spec/ is a directory of
 * the distribution project, not of this one.
 */
const CITATION =
  /(?<![\w/.-])((?:docs\/(?!spec\/)[\w./-]+|README|CONTRIBUTING|SECURITY|CHANGELOG)\.md)(?:,\s+"([^"]+)")?/g;
/** "src/fuse/abi.ts", in comments and pages. Not relative ones, which are imports. */
const NAMED_FILE = /(?<![\w/.@-])((?:src|test|bench|scripts|examples|contrib)\/[\w./-]+\.(?:ts|mjs|sh|c|service))\b/g;
/** Pages and numbers that are not in the repository. */
const FOREIGN = /\bDESIGN\b(?:\.md|,? §)|\b(?:FUSE|EROFS|STYLE)(?:\.md|,? §| \d)|\b[Ii]ssues? #?\d+\b/g;

interface Text {
  readonly file: string;
  readonly text: string;
}

const page = new Map<string, string | null>();
function textOf(file: string): string | null {
  if (!page.has(file)) {
    const full = path.join(root, file);
    page.set(file, existsSync(full) ? readFileSync(full, 'utf8') : null);
  }
  return page.get(file)!;
}

function withoutCode(markdown: string): string {
  return markdown.replaceAll(/^```[\s\S]*?^```$/gm, '');
}

function headingsOf(markdown: string): string[] {
  return [...withoutCode(markdown).matchAll(/^#{1,6} +(.*?)\s*$/gm)].map((match) => match[1]!.replaceAll('`', ''));
}

/** As GitHub makes them. */
function anchorsOf(markdown: string): Set<string> {
  const anchors = new Set<string>();
  for (const heading of headingsOf(markdown)) {
    const slug = heading
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
      .replaceAll(/\s/g, '-');
    let anchor = slug;
    for (let n = 1; anchors.has(anchor); n++) anchor = `${slug}-${n}`;
    anchors.add(anchor);
  }
  return anchors;
}

/** Comment markers at line starts go, so that a citation may be broken over two lines. */
function flat(text: string): string {
  return text.replaceAll(/\n[ \t]*(?:\*(?!\/)|\/\/|#)?[ \t]*/g, ' ');
}

function danglingCitations({ file, text }: Text): string[] {
  const wrong: string[] = [];
  for (const [whole, cited, heading] of flat(text).matchAll(CITATION)) {
    const markdown = textOf(cited!);
    if (markdown === null) wrong.push(`${file}: ${whole}: there is no ${cited}`);
    else if (heading !== undefined && !headingsOf(markdown).some((h) => h === heading || h.startsWith(`${heading}:`)))
      wrong.push(`${file}: ${whole}: no such heading`);
  }
  return wrong;
}

function danglingLinks({ file, text }: Text): string[] {
  const wrong: string[] = [];
  for (const [whole, target] of withoutCode(text).matchAll(/\]\(([^)\s]+)\)/g)) {
    if (/^[a-z]+:/.test(target!)) continue;
    const [relative, anchor] = target!.split('#') as [string, string | undefined];
    const linked = relative === '' ? file : path.posix.join(path.posix.dirname(file), relative);
    if (!existsSync(path.join(root, linked))) wrong.push(`${file}: ${whole}: there is no ${linked}`);
    else if (anchor !== undefined && !anchorsOf(textOf(linked)!).has(anchor))
      wrong.push(`${file}: ${whole}: no such heading`);
  }
  return wrong;
}

const texts: Text[] = [
  ...readdirSync(root).filter((name) => name.endsWith('.md')),
  ...DIRECTORIES.filter((directory) => existsSync(path.join(root, directory))).flatMap((directory) =>
    readdirSync(path.join(root, directory), { recursive: true, encoding: 'utf8' }).map(
      (name) => `${directory}/${name}`,
    ),
  ),
]
  .filter((file) => TEXT.test(file) || !file.includes('/'))
  .map((file) => ({ file, text: readFileSync(path.join(root, file), 'utf8') }));

describe('references to pages', () => {
  it('name pages and headings that exist', () => {
    // This file names some on purpose.
    const others = texts.filter(({ file }) => file !== 'test/doc-references.test.ts');
    expect(others.flatMap(danglingCitations)).toEqual([]);
    const cited = others.filter(({ file, text }) => file.startsWith('src/') && flat(text).match(CITATION) !== null);
    expect(cited.length).toBeGreaterThan(0);
  });

  it('name source files that exist', () => {
    const others = texts.filter(({ file }) => file !== 'test/doc-references.test.ts');
    const wrong = others.flatMap(({ file, text }) =>
      [...text.matchAll(NAMED_FILE)]
        .map(([, named]) => named!)
        .filter((named) => !named.includes('NAME') && !existsSync(path.join(root, named)))
        .map((named) => `${file}: there is no ${named}`),
    );
    expect(wrong).toEqual([]);
  });

  it('link to files and headings that exist', () => {
    const pages = texts.filter(({ file }) => file.endsWith('.md'));
    expect(pages.flatMap(danglingLinks)).toEqual([]);
    expect(pages.length).toBeGreaterThan(10);
  });

  it('name nothing that is not in the repository', () => {
    const others = texts.filter(({ file }) => file !== 'test/doc-references.test.ts');
    expect(others.flatMap(({ file, text }) => (text.match(FOREIGN) ?? []).map((found) => `${file}: ${found}`))).toEqual(
      [],
    );
  });
});

/** The file that stands for a folder: its index.ts, or the program that it is. */
const FRONTS: Readonly<Record<string, string>> = { server: 'server-main.ts', cli: 'main.ts' };

describe('folders of src/', () => {
  const folders = readdirSync(path.join(root, 'src'), { withFileTypes: true }).filter((entry) => entry.isDirectory());

  it.each(folders.map(({ name }) => name))('%s/ says at its front what belongs there and where it runs', (name) => {
    const front = readFileSync(path.join(root, 'src', name, FRONTS[name] ?? 'index.ts'), 'utf8');
    const [comment = ''] = flat(front).match(/^\/\*\* .*?\*\//) ?? [];
    expect(comment).toMatch(/\b[Rr]uns in\b/);
  });

  it('are all in docs/architecture.md', () => {
    const page = textOf('docs/architecture.md')!;
    expect(folders.filter(({ name }) => !page.includes(`\n| \`${name}/\` |`)).map(({ name }) => name)).toEqual([]);
  });
});

describe('the check', () => {
  it.each([
    ['// docs/architecture.md, "Invariant 9"', 0],
    ['// docs/architecture.md, "Invariant 9: eviction never tears a read"', 0],
    ['// docs/architecture.md, "Invariant 99"', 1],
    ['/**\n * See docs/architecture.md,\n * "Folders".\n */', 0],
    ['/**\n * See docs/architecture.md,\n * "Rooms".\n */', 1],
    ["'see docs/format.md'", 0],
    ["'see docs/formats.md'", 1],
    ['// CONTRIBUTING.md, "Releases", and SECURITY.md', 0],
  ])('%j has %i dangling citations', (text, count) => {
    expect(danglingCitations({ file: 'x.ts', text })).toHaveLength(count);
  });

  it.each([
    ['[a](docs/architecture.md#invariants)', 0],
    ['[a](docs/architecture.md#invariant-9-eviction-never-tears-a-read)', 0],
    ['[a](docs/architecture.md#nowhere)', 1],
    ['[a](docs/nowhere.md)', 1],
    ['[a](https://example.com/nowhere)', 0],
    ['```\n[a](nowhere.md)\n```', 0],
  ])('%j has %i dangling links', (text, count) => {
    expect(danglingLinks({ file: 'x.md', text })).toHaveLength(count);
  });

  it.each(['DESIGN §3.9', 'DESIGN, §3', 'FUSE.md', 'EROFS.md', 'STYLE.md', 'STYLE 4', 'issue 6', 'issues 3'])(
    'knows %s as foreign',
    (text) => expect(text.match(FOREIGN)).toHaveLength(1),
  );

  it.each(['the FUSE plane', 'docs/internals/fuse.md', 'an issue', 'EROFS'])('lets %s stand', (text) =>
    expect(text.match(FOREIGN)).toBeNull(),
  );
});
