import { setPriority } from 'node:os';
import { type ProxyOptions, startProxy } from './proxy.js';

// A link does not slow down because both its ends are busy.
try {
  setPriority(-15);
} catch {
  // Only root may.
}
// The child of spawnProxy(): lives as long as its parent keeps the channel open.
const proxy = await startProxy(JSON.parse(process.argv[2]!) as ProxyOptions);
process.on('message', (message) => {
  if (message === 'requests') process.send!({ requests: proxy.requests });
  if (message === 'reset') {
    proxy.reset();
    process.send!({ done: true });
  }
});
process.on('disconnect', () => process.exit(0));
process.send!({ host: proxy.host });
