/** The kind of a failure, for programs; the message is for people. */
export type ErrorCode =
  | 'BAD_FORMAT'
  | 'BAD_REFERENCE'
  | 'NOT_FOUND'
  | 'UNAUTHORIZED'
  | 'NO_PLATFORM'
  | 'UNSUPPORTED'
  | 'DIGEST_MISMATCH'
  | 'NETWORK'
  | 'LIMIT'
  | 'BUSY'
  | 'CONFLICT'
  | 'PERMISSION'
  | 'SYSTEM'
  | 'ABORTED'
  | 'USAGE';

/** docs/cli.md, "Exit codes": a test compares the table. 1 is every other failure, 2 a wrong command line or setting. */
export const EXIT_CODES: Readonly<Record<ErrorCode, number>> = {
  SYSTEM: 1,
  USAGE: 2,
  NOT_FOUND: 3,
  BAD_FORMAT: 4,
  DIGEST_MISMATCH: 5,
  BAD_REFERENCE: 6,
  UNAUTHORIZED: 7,
  PERMISSION: 8,
  NETWORK: 9,
  UNSUPPORTED: 10,
  NO_PLATFORM: 11,
  LIMIT: 12,
  BUSY: 13,
  CONFLICT: 14,
  ABORTED: 15,
};

/** Every error that a user may see. `message` is one line with the thing and the cause; `hint` is the next step. */
export class ClipError extends Error {
  override readonly name: string = 'ClipError';
  readonly code: ErrorCode;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, options: { hint?: string | undefined; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.hint = options.hint;
  }
}

/** Bytes that break the rules of their format. */
export class FormatError extends ClipError {
  override readonly name = 'FormatError';

  /**
   * @param what    the format and part at fault: "gzip header", "tar checksum", "section tree"
   * @param offset  in bytes from the start of that input
   * @param detail  the found and the expected value
   */
  constructor(
    readonly what: string,
    readonly offset: number,
    readonly detail: string,
    options: { hint?: string | undefined; cause?: unknown } = {},
  ) {
    super('BAD_FORMAT', `${what} at byte ${offset}: ${detail}`, options);
  }
}

/** The caller's signal called it off. Named as the platform names it; `cause` is the signal's reason. */
export class AbortError extends ClipError {
  override readonly name = 'AbortError';

  /** @param what was under way: "indexing py:latest" */
  constructor(what: string, signal: AbortSignal) {
    super('ABORTED', `${what} was called off`, { cause: signal.reason });
  }
}
