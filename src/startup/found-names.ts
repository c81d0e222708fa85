import type { Language, SeenFile } from './languages/language.js';
import { LANGUAGES } from './languages/languages.js';

/** The names of other files that were found in a file of a layer. */
export interface FoundNames {
  /** Of the layer's tar. */
  readonly entry: number;
  /** `Language.name`. */
  readonly language: string;
  readonly names: readonly string[];
}

/**
 * What is found in the files of a layer, in a form for messages between threads: one string is copied in one piece, an array of
 * strings is not.
 */
export class NameLog {
  #lines: string[] = [];

  add(entry: number, language: Language, file: SeenFile): void {
    const names = language.scan(file);
    if (names !== null) this.#lines.push([entry, LANGUAGES.indexOf(language), ...names].join('\t'));
  }

  /** What was added since the last call. */
  take(): string {
    const text = this.#lines.join('\n');
    this.#lines = [];
    return text;
  }
}

export function readNames(log: string, into: FoundNames[]): void {
  if (log === '') return;
  for (const line of log.split('\n')) {
    const [entry, language, ...names] = line.split('\t');
    into.push({ entry: Number(entry), language: LANGUAGES[Number(language)]!.name, names });
  }
}
