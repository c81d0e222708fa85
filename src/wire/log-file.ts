import { closeSync, constants, fstatSync, renameSync } from 'node:fs';
import { replaceDescriptor } from '../linux/index.js';
import { LOG_NAME } from '../metrics/index.js';
import type { OwnDirectory } from '../paths/index.js';

/** The log before the present one. */
const OLD_LOG_NAME = `${LOG_NAME}.1`;

/** The root lies in memory as a rule. The log and the one before it take twice this; it is some 40,000 lines. */
const MAX_LOG_BYTES = 8 * 1024 * 1024;

/** Standard error of this process, and of those that it starts, becomes the log in the root. */
export function turnToLog(root: OwnDirectory): void {
  const fd = root.open(LOG_NAME, constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT);
  replaceDescriptor(2, fd);
  closeSync(fd);
}

/**
 * Begins another log when the one that is standard error has become large. Processes that share it go on in the old one, which has another
 * name now, until they turn to the log again: so no line is lost.
 * @returns whether it has
 */
export function rotateLog(root: OwnDirectory, maxBytes = MAX_LOG_BYTES): boolean {
  if (fstatSync(2).size <= maxBytes) return false;
  renameSync(root.at(LOG_NAME), root.at(OLD_LOG_NAME));
  turnToLog(root);
  return true;
}
