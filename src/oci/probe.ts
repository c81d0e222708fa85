import { connect } from 'node:net';

/** Some servers are silent when they do not understand a request. On loopback silence is an answer, too. */
const SILENCE_MS = 2_000;

/**
 * A ClientHello of TLS 1.2 (RFC 5246 §7.4.1.2) that offers one old suite and no extensions: any TLS server answers it with a
 * ServerHello or an alert, and either begins with a record header of RFC 8446 §5.1, content type 20 to 24. The random is a
 * blank line over and over, so that an HTTP server sees the end of a (bad) request and answers at once.
 */
const CLIENT_HELLO = (() => {
  const hello = Buffer.concat([
    Buffer.from([0x03, 0x03]), // client_version
    Buffer.alloc(32, '\r\n'), // random: this connection is dropped before anything depends on it
    Buffer.from([0x00]), // session_id: none
    Buffer.from([0x00, 0x02, 0x00, 0x2f]), // cipher_suites: TLS_RSA_WITH_AES_128_CBC_SHA
    Buffer.from([0x01, 0x00]), // compression: null
  ]);
  const handshake = Buffer.concat([Buffer.from([0x01, 0x00, 0x00, hello.length]), hello]);
  return Buffer.concat([Buffer.from([0x16, 0x03, 0x01, 0x00, handshake.length]), handshake]);
})();

/**
 * Whether whatever listens at host:port speaks TLS, told by the first byte of its answer to a ClientHello. Rejects with the
 * socket's error when nothing can be reached.
 */
export function speaksTls(host: string, port: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port });
    let connected = false;
    const finish = (answer: boolean): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(SILENCE_MS, () => {
      if (connected) finish(false);
      else socket.destroy(Object.assign(new Error('connect ETIMEDOUT'), { code: 'ETIMEDOUT' }));
    });
    socket.once('connect', () => {
      connected = true;
      socket.write(CLIENT_HELLO);
    });
    socket.once('data', (data) => finish(data[0]! >= 20 && data[0]! <= 24));
    socket.once('end', () => finish(false));
    socket.once('error', (error) => {
      // Hung up on us for the ClientHello: no TLS server does that without an alert.
      if (connected) resolve(false);
      else reject(error);
    });
  });
}

/** "localhost", 127.0.0.0/8 and ::1, with or without brackets: what never leaves this machine (RFC 6761 §6.3). */
export function isLoopback(hostname: string): boolean {
  const bare = hostname.replace(/^\[|\]$/g, '').toLowerCase();
  if (bare === 'localhost' || bare.endsWith('.localhost') || bare === '::1') return true;
  return /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(bare);
}
