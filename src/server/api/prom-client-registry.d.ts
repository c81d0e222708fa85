/** The part of prom-client that is used: its classes of metrics, which count by themselves, would be 150 kB of the package. */
declare module 'prom-client/lib/registry.js' {
  import { Registry } from 'prom-client';
  export = Registry;
}
