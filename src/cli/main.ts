/**
 * `clipctl`: flags, texts, exit codes, one file per command. Work that the library needs as well belongs to client/, index/ or
 * check/. A program without an index.ts, because no folder imports it. Runs in the client process.
 */

import { startEarly } from './early-start.js';

const args = process.argv.slice(2);
if (args.length === 1 && (args[0] === '--version' || args[0] === '-V')) {
  // Without loading a command.
  void Promise.all([import('../metrics/index.js'), import('../loader/index.js')]).then(
    ([{ packageVersion }, { keepCode }]) => {
      process.stdout.write(`${packageVersion()}\n`);
      keepCode();
    },
  );
} else {
  startEarly(args, process.env);
  void import('./program.js').then(({ runCommandLine }) => runCommandLine());
}
