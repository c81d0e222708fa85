import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { ProxiedRequest, ProxyOptions } from './proxy.js';

/** {@link startProxy} in a process of its own, so that its work is not measured. */
export interface ProxyProcess {
  readonly host: string;
  requests(): Promise<ProxiedRequest[]>;
  reset(): Promise<void>;
  stop(): Promise<void>;
}

type Reply = { host: string } | { requests: ProxiedRequest[] } | { done: true };

export async function spawnProxy(options: ProxyOptions): Promise<ProxyProcess> {
  const child = fork(fileURLToPath(new URL('proxy-main.js', import.meta.url)), [JSON.stringify(options)], {
    stdio: 'inherit',
  });
  const ask = (message: string | null): Promise<Reply> =>
    new Promise((resolve, reject) => {
      const onExit = (): void => reject(new Error('the proxy process died'));
      child.once('exit', onExit);
      child.once('message', (reply) => {
        child.off('exit', onExit);
        resolve(reply as Reply);
      });
      if (message !== null) child.send(message);
    });
  const killed = (): void => void child.kill('SIGKILL');
  process.once('exit', killed);
  const { host } = (await ask(null)) as { host: string };
  return {
    host,
    requests: async () => ((await ask('requests')) as { requests: ProxiedRequest[] }).requests,
    reset: async () => void (await ask('reset')),
    stop: async () => {
      process.off('exit', killed);
      const gone = new Promise((resolve) => child.once('exit', resolve));
      child.disconnect();
      await gone;
    },
  };
}
