export { type ElfFile, elfFiles, linkReferences } from './link-references.js';
export { ImportLog, type ModuleImports, readImports } from './python-imports.js';
export { type LayerReferences, ReferenceScanner } from './reference-scanner.js';
export { staticProfile } from './static-profile.js';
