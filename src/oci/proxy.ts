import { BlockList, isIP } from 'node:net';
import { isLoopback } from './probe.js';

/** As the environment gives them: URLs, and NO_PROXY's comma-separated list. Plain data, for a daemon to use later. */
export interface ProxySettings {
  readonly http?: string;
  readonly https?: string;
  readonly no?: string;
}

/** Reads HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY; lower case wins, as in curl. */
export function proxyFromEnvironment(env: NodeJS.ProcessEnv): ProxySettings {
  const read = (name: string): string | undefined => env[name.toLowerCase()] || env[name] || undefined;
  const all = read('ALL_PROXY');
  // CGI sets HTTP_PROXY from a client's "Proxy:" header (httpoxy): not trusted there, as in Go.
  const http = (env.REQUEST_METHOD === undefined ? read('HTTP_PROXY') : env.http_proxy) ?? all;
  const https = read('HTTPS_PROXY') ?? all;
  const no = read('NO_PROXY');
  return { ...(http && { http }), ...(https && { https }), ...(no && { no }) };
}

function inNetwork(address: string, cidr: string): boolean {
  const [network, bits] = cidr.split('/');
  const family = isIP(network ?? '') === 6 ? 'ipv6' : 'ipv4';
  if (isIP(network ?? '') === 0 || !/^\d{1,3}$/.test(bits ?? '') || Number(bits) > (family === 'ipv6' ? 128 : 32))
    return false;
  const list = new BlockList();
  list.addSubnet(network!, Number(bits), family);
  return list.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4');
}

/** NO_PROXY as Go's httpproxy reads it: "*", names with their subdomains, ".names" only subdomains, addresses, networks, ports. */
function isExempt(hostname: string, port: string, list: string): boolean {
  for (const raw of list.split(/[\s,]+/)) {
    let entry = raw.toLowerCase();
    if (entry === '') continue;
    if (entry === '*') return true;
    const ported = /^(\[.*\]|[^:]*):(\d+)$/.exec(entry);
    if (ported !== null) {
      if (ported[2] !== port) continue;
      entry = ported[1]!;
    }
    entry = entry.replace(/^\[|\]$/g, '');
    if (isIP(hostname) !== 0) {
      if (entry === hostname || inNetwork(hostname, entry)) return true;
      continue;
    }
    const name = entry.replace(/^\*/, '');
    if (name.startsWith('.') ? hostname.endsWith(name) : hostname === name || hostname.endsWith(`.${name}`))
      return true;
  }
  return false;
}

/** The proxy for a URL, or null for a direct connection. Loopback is never proxied. */
export function proxyFor(url: URL, settings: ProxySettings): string | null {
  const hostname = url.hostname.replace(/^\[|\]$/g, '').toLowerCase();
  const proxy = url.protocol === 'https:' ? settings.https : settings.http;
  if (proxy === undefined || isLoopback(hostname)) return null;
  const port = url.port || (url.protocol === 'https:' ? '443' : '80');
  if (settings.no !== undefined && isExempt(hostname, port, settings.no)) return null;
  return /^[a-z0-9+.-]+:\/\//i.test(proxy) ? proxy : `http://${proxy}`;
}
