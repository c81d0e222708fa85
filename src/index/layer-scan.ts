import { FormatError } from '../bytes/index.js';
import type { FoundNames, LayerReferences } from '../startup/index.js';

/** What an index build sees in a layer besides its entries and spans (docs/format.md, "11: scan"). */
export interface LayerScan {
  /** MiB of tar between checkpoints. */
  readonly checkpointMiB: number;
  readonly references: LayerReferences;
  readonly names: readonly FoundNames[];
  readonly warnings: readonly string[];
  /** Sparse files without a digest. */
  readonly unhashed: number;
}

/**
 * Raised whenever an index build cuts layers, reads tars or looks into files in another way: a layer's index from before would give
 * another archive than a fresh one.
 */
const SCAN_VERSION = 7;

export function encodeScan({ checkpointMiB, references, names, warnings, unhashed }: LayerScan): Uint8Array {
  const scan = {
    version: SCAN_VERSION,
    checkpointMiB,
    warnings,
    unhashed,
    checked: references.checked,
    elf: references.elf.map(({ entry, needs }) => [
      entry,
      needs.interpreter,
      needs.needed,
      needs.searchPath,
      needs.segments.map(({ offset, fileSize, writable }) => [offset, fileSize, writable]),
      needs.parts,
      needs.complete,
      needs.strings,
      needs.functions,
      needs.relocated,
    ]),
    scripts: references.scripts.map(({ entry, line }) => [entry, line]),
    names: names.map(({ entry, language, names }) => [entry, language, ...names]),
  };
  return Buffer.from(JSON.stringify(scan), 'utf8');
}

/** Null for a scan of another version of clip. @throws FormatError naming what is wrong */
export function decodeScan(raw: Uint8Array, what: string, entryCount: number): LayerScan | null {
  const fail = (detail: string): never => {
    throw new FormatError(what, 0, detail);
  };
  const list = (value: unknown, name: string): readonly unknown[] =>
    Array.isArray(value) ? value : fail(`${name} is no list`);
  const text = (value: unknown, name: string): string =>
    typeof value === 'string' ? value : fail(`${name} is no text`);
  const yes = (value: unknown, name: string): boolean =>
    typeof value === 'boolean' ? value : fail(`${name} is neither true nor false`);
  /** Sizes in ELF files may be beyond 2^53, and nothing is allocated by them. */
  const amount = (value: unknown, name: string): number =>
    typeof value === 'number' && value >= 0 ? value : fail(`${name} is no size`);
  const entry = (value: unknown): number =>
    Number.isInteger(value) && (value as number) >= 0 && (value as number) < entryCount
      ? (value as number)
      : fail(`entry ${String(value)} of ${entryCount}`);
  const texts = (value: unknown, name: string): string[] => list(value, name).map((item) => text(item, name));

  let scan: Record<string, unknown>;
  try {
    scan = Object(JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(raw))) as Record<string, unknown>;
  } catch (cause) {
    throw new FormatError(what, 0, 'not JSON', { cause });
  }
  if (scan.version !== SCAN_VERSION) return null;
  const elf = list(scan.elf, 'elf').map((value) => {
    const [at, interpreter, needed, searchPath, segments, parts, complete, strings, functions, relocated] = list(
      value,
      'a program',
    );
    return {
      entry: entry(at),
      needs: {
        interpreter: interpreter === null ? null : text(interpreter, 'an interpreter'),
        needed: texts(needed, 'a library'),
        searchPath: texts(searchPath, 'a search path'),
        segments: list(segments, 'segments').map((segment) => {
          const [offset, fileSize, writable] = list(segment, 'a segment');
          return {
            offset: amount(offset, 'a segment'),
            fileSize: amount(fileSize, 'a segment'),
            writable: yes(writable, 'a segment'),
          };
        }),
        parts: list(parts, 'parts').map((part) => amount(part, 'a part')),
        complete: yes(complete, 'complete'),
        strings: text(strings, 'strings'),
        functions: text(functions, 'functions'),
        relocated: list(relocated, 'relocated').map((part) => amount(part, 'a relocated part')),
      },
    };
  });
  const scripts = list(scan.scripts, 'scripts').map((value) => {
    const [at, line] = list(value, 'a script');
    return { entry: entry(at), line: text(line, 'a line') };
  });
  const names = list(scan.names, 'names').map((value) => {
    const [at, language, ...found] = list(value, 'a file');
    return { entry: entry(at), language: text(language, 'a language'), names: texts(found, 'a name') };
  });
  return {
    checkpointMiB: amount(scan.checkpointMiB, 'checkpointMiB'),
    references: { elf, scripts, checked: yes(scan.checked, 'checked') },
    names,
    warnings: texts(scan.warnings, 'a warning'),
    unhashed: amount(scan.unhashed, 'unhashed'),
  };
}
