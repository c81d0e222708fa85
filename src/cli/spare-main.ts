import { serveOneCall } from './spare-client.js';

void serveOneCall(process.argv[2]!);
