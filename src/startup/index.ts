/**
 * The files that starting a program leads to, found without running it: libraries of ELF files, imports of Python modules, the spans
 * of an image's own command. Its results are hints; no read depends on them. Runs in an index build: scanning in the digest workers,
 * linking in the main thread.
 */

export { type ElfFile, elfFiles, linkReferences } from './link-references.js';
export { ImportLog, type ModuleImports, readImports } from './python-imports.js';
export { type LayerReferences, ReferenceScanner } from './reference-scanner.js';
export { staticProfile } from './static-profile.js';
