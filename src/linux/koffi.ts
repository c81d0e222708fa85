import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type * as Koffi from 'koffi';

/** That of package.json. */
export const KOFFI_VERSION = '3.3.4';

type Native = Pick<typeof Koffi, 'address' | 'errno' | 'load'> & { readonly version: string };

/**
 * Koffi's native module. The JavaScript around it looks for it in many places and wraps what clip does not use, which takes 7 ms in each process
 * and thread, so the module is loaded from where npm puts it. On musl, and where npm was told to put it elsewhere, koffi finds it itself.
 */
export function loadKoffi(): Native {
  const { arch } = process;
  const file = join('node_modules', '@koromix', `koffi-linux-${arch}`, `linux_${arch}`, 'koffi.node');
  const here = fileURLToPath(import.meta.url);
  for (let directory = dirname(here); ; directory = dirname(directory)) {
    const place = join(directory, file);
    if (existsSync(place)) {
      const native = loadNative(place);
      if (native?.version === KOFFI_VERSION) return native;
    }
    if (directory === dirname(directory)) return createRequire(here)('koffi') as Native;
  }
}

function loadNative(file: string): Native | null {
  const module = { exports: {} };
  try {
    process.dlopen(module, file);
  } catch {
    return null; // of another C library
  }
  return module.exports as Native;
}
