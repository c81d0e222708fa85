/**
 * ok: it is there. limited: clip works, and something is slower, weaker or not possible; the hint says what. failed: clip does not
 * work like this.
 */
export type FindingStatus = 'ok' | 'limited' | 'failed';

/** The result of one examination. */
export interface Finding {
  /** Stable, for programs: "fuse-device". */
  readonly name: string;
  readonly status: FindingStatus;
  /** One line. */
  readonly found: string;
  /** What to do, or what it is needed for. With a status other than ok. */
  readonly hint?: string;
}

export const ok = (name: string, found: string): Finding => ({ name, status: 'ok', found });
export const limited = (name: string, found: string, hint: string): Finding => ({
  name,
  status: 'limited',
  found,
  hint,
});
export const failed = (name: string, found: string, hint: string): Finding => ({ name, status: 'failed', found, hint });

/** Whether clip works, according to these findings. */
export function works(findings: readonly Finding[]): boolean {
  return findings.every(({ status }) => status !== 'failed');
}
