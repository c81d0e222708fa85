import type { Row, SuiteResult } from './support.js';

export function verdicts(rows: readonly Row[]): { met: number; missed: number } {
  const rated = rows.filter((row) => row.ok !== undefined);
  const met = rated.filter((row) => row.ok).length;
  return { met, missed: rated.length - met };
}

/** Three significant digits, no exponent, thousands apart. */
function figure(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  const digits = size === 0 || size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  return value.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function spreadOf({ spread }: Row): string {
  if (spread === undefined) return '';
  const [least, most] = spread.map(figure);
  return least === most ? '' : ` (${least} to ${most})`;
}

/** One suite as a Markdown table, ready for docs/benchmarks.md. @param page  the page whose other rows of the suite are kept */
export function table(name: string, result: SuiteResult, page = ''): string {
  const header = ['metric', 'value', 'against', 'target', 'met'];
  const measured = result.rows.map((row) => [
    row.metric,
    `${figure(row.value)}${row.unit ? ` ${row.unit}` : ''}${spreadOf(row)}`,
    row.ratio ? `${figure(row.ratio.value)} × ${row.ratio.to}` : '',
    row.target ?? '',
    row.ok === undefined ? '' : row.ok ? 'yes' : 'no',
  ]);
  const kept = rowsOf(page, name);
  const cells = kept.map((row) => measured.find(([metric]) => metric === row[0]) ?? row);
  cells.push(...measured.filter(([metric]) => !kept.some((row) => row[0] === metric)));
  const width = header.map((h, i) => Math.max(h.length, ...cells.map((c) => c[i]!.length)));
  const line = (c: readonly string[]): string => `| ${c.map((text, i) => text.padEnd(width[i]!)).join(' | ')} |`;
  const notes = result.rows.filter((row) => row.note).map((row) => `- ${row.metric}: ${row.note}`);
  return [
    `\n### ${name}: ${result.title}\n`,
    line(header),
    `|${width.map((w) => '-'.repeat(w + 2)).join('|')}|`,
    ...cells.map(line),
    ...(notes.length > 0 ? ['', ...notes] : []),
  ].join('\n');
}

/** The rows of a suite's table in a page, in cells. */
function rowsOf(page: string, name: string): string[][] {
  const text = page.split(`<!-- ${name} -->`)[1]?.split(`<!-- /${name} -->`)[0] ?? '';
  const rows = text.split('\n').filter((line) => line.startsWith('| '));
  return rows.slice(1).map((line) =>
    line
      .slice(1, -1)
      .split('|')
      .map((cell) => cell.trim()),
  );
}

/** Puts a suite's table between its markers in docs/benchmarks.md. @throws Error if the page has no markers for it */
export function replaceTable(page: string, name: string, text: string): string {
  const [begin, end] = [`<!-- ${name} -->`, `<!-- /${name} -->`];
  const [from, to] = [page.indexOf(begin), page.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`docs/benchmarks.md has no ${begin} … ${end}`);
  return `${page.slice(0, from + begin.length)}\n${text.trim()}\n${page.slice(to)}`;
}
