import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';

/** A request as S3 sees it. */
export interface S3Request {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
}

/**
 * Stands in front of s3rver, passes requests on, and keeps account of uploads in parts, which s3rver neither lists nor removes:
 * `unfinished` is what a bucket would list as its multipart uploads.
 */
export interface S3Front {
  readonly endpoint: string;
  readonly requests: S3Request[];
  /** Names of uploads that were begun and neither completed nor removed. */
  readonly unfinished: ReadonlySet<string>;
  /** Parts that arrived after their upload was removed: they would stay. */
  readonly orphans: number;
  /** Called before a request is passed on; what it resolves to is answered instead. */
  before: ((request: S3Request) => Promise<number | undefined> | number | undefined) | null;
  close(): Promise<void>;
}

export async function startS3Front(port: number): Promise<S3Front> {
  const unfinished = new Set<string>();
  const removed = new Set<string>();
  const requests: S3Request[] = [];
  let orphans = 0;
  const end = (answer: ServerResponse, status: number): void => {
    answer.writeHead(status).end();
  };
  const pass = (incoming: IncomingMessage, answer: ServerResponse, onBody: (text: string) => void): void => {
    const { method, url, headers } = incoming;
    const upstream = request({ host: '127.0.0.1', port, method, path: url, headers }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () => {
        const body = Buffer.concat(chunks);
        if (response.statusCode === 200) onBody(body.toString('latin1'));
        answer.writeHead(response.statusCode ?? 500, response.headers).end(body);
      });
    });
    upstream.on('error', () => answer.destroy());
    incoming.on('error', () => upstream.destroy());
    incoming.pipe(upstream);
  };
  const server = createServer(async (incoming, answer) => {
    const { pathname: path, searchParams: query } = new URL(incoming.url ?? '', 'http://s3');
    const { method = '' } = incoming;
    const seen = { method, path, query };
    requests.push(seen);
    const status = await front.before?.(seen);
    if (status !== undefined) {
      incoming.resume();
      end(answer, status);
      return;
    }
    const upload = query.get('uploadId');
    if (method === 'DELETE' && upload !== null) {
      unfinished.delete(upload);
      removed.add(upload);
      end(answer, 204);
      return;
    }
    if (method === 'PUT' && upload !== null && removed.has(upload)) orphans++;
    pass(incoming, answer, (text) => {
      const begun = /<UploadId>([^<]+)</.exec(text)?.[1];
      if (method === 'POST' && query.has('uploads') && begun !== undefined) unfinished.add(begun);
      if (method === 'POST' && upload !== null) unfinished.delete(upload);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const front: S3Front = {
    endpoint: `http://127.0.0.1:${(server.address() as { port: number }).port}`,
    requests,
    unfinished,
    get orphans() {
      return orphans;
    },
    before: null,
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return front;
}
