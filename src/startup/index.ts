/**
 * The files that starting a program leads to, found without running it: libraries of ELF files and the programs and files that they
 * name, imports of modules (`languages/`, a file for each), the spans of an image's own command. Its results are hints; no read depends on them. Runs in an index build: scanning in the digest workers,
 * linking in the main thread.
 */

export { type CommandWord, commandWords, runsAnother } from './command-words.js';
export type { ElfFile } from './elf.js';
export { type FoundNames, NameLog, readNames } from './found-names.js';
export { elfFiles, linkReferences } from './link-references.js';
export { type LayerReferences, ReferenceScanner } from './reference-scanner.js';
export { staticProfile } from './static-profile.js';
