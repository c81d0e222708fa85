import type { Command } from 'commander';

type Register = (program: Command) => void;

/** Each command registers itself and loads its modules when it runs, so that `clipctl help` loads no engine. */
const commands: Readonly<Record<string, () => Promise<Register>>> = {
  index: async () => (await import('./index-command.js')).registerIndex,
  push: async () => (await import('./push.js')).registerPush,
  pull: async () => (await import('./pull.js')).registerPull,
  ls: async () => (await import('./ls.js')).registerLs,
  cat: async () => (await import('./cat.js')).registerCat,
  inspect: async () => (await import('./inspect.js')).registerInspect,
  diff: async () => (await import('./diff.js')).registerDiff,
  verify: async () => (await import('./verify.js')).registerVerify,
  optimize: async () => (await import('./optimize.js')).registerOptimize,
  profile: async () => (await import('./profile.js')).registerProfile,
  create: async () => (await import('./create.js')).registerCreate,
  extract: async () => (await import('./extract.js')).registerExtract,
  store: async () => (await import('./store.js')).registerStore,
  convert: async () => (await import('./convert.js')).registerConvert,
  mount: async () => (await import('./mount.js')).registerMount,
  umount: async () => (await import('./umount.js')).registerUmount,
  unpack: async () => (await import('./unpack.js')).registerUnpack,
  run: async () => (await import('./run.js')).registerRun,
  ps: async () => (await import('./ps.js')).registerPs,
  stats: async () => (await import('./stats.js')).registerStats,
  trace: async () => (await import('./trace.js')).registerTrace,
  report: async () => (await import('./report.js')).registerReport,
  prefetch: async () => (await import('./prefetch.js')).registerPrefetch,
  doctor: async () => (await import('./doctor.js')).registerDoctor,
  health: async () => (await import('./health.js')).registerHealth,
  archives: async () => (await import('./archives.js')).registerArchives,
  cache: async () => (await import('./cache.js')).registerCache,
  daemon: async () => (await import('./daemon.js')).registerDaemon,
  config: async () => {
    const { registerConfig } = await import('./config.js');
    return (program) => registerConfig(program, () => everyCommand(program));
  },
  completion: async () => {
    const { registerCompletion } = await import('./completion.js');
    return (program) => registerCompletion(program, () => everyCommand(program));
  },
  version: async () => (await import('./version.js')).registerVersion,
};

/** Registers the command that `args` name. For help or an unknown name all are registered, to be listed or searched for a similar name. */
export async function registerCommands(program: Command, args: readonly string[]): Promise<void> {
  // `run` passes on the arguments behind the image.
  program.enablePositionalOptions();
  const asked = args[0] ?? '';
  const load = Object.hasOwn(commands, asked) ? [commands[asked]!] : Object.values(commands);
  for (const register of await Promise.all(load.map((each) => each()))) register(program);
  const { prepareCommands } = await import('../prepare.js');
  prepareCommands(program, () => everyCommand(program));
}

/** A program like this one, with all commands. */
async function everyCommand(program: Command): Promise<Command> {
  const whole = program.createCommand(program.name());
  await registerCommands(whole, []);
  return whole;
}
