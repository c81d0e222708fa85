/**
 * Paths that other users may change while they are used (docs/security.md, "Other users of the machine"). A directory is opened once, component by component, checked, and from then on
 * reached by its descriptor instead of its name. Knows nothing of clip's files but the endings of their names. Needs no system call that Node lacks, because a client
 * does not load koffi. Runs in every process.
 */

export { ARCHIVE_ENDING, endsAsFile, missingArchive, similarArchive, typingDistance } from './missing-archive.js';
export { descriptorPath, type OpenPlace, type OpenPlaceInParent, openPlace, openPlaceInParent } from './open-place.js';
export { OwnDirectory, type OwnDirectoryOptions } from './own-directory.js';
export { openRegularFile } from './regular-file.js';
export { stablePath } from './stable-path.js';
