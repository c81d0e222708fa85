import { execFileSync } from 'node:child_process';

/** RFC 5737: for documentation, so nothing on any network has it, and clip takes it for a public address. */
export const PUBLIC_ADDRESS = '198.51.100.7';

/** Gives this machine an address; undo with the function that it returns. Needs root. */
export function addAddress(address: string): () => void {
  const ip = (verb: string): void => {
    execFileSync('ip', ['addr', verb, address.includes(':') ? `${address}/128` : `${address}/32`, 'dev', 'lo']);
  };
  ip('replace');
  return () => ip('del');
}
