import { defineConfig } from 'vitest/config';

// Tests run from dist/, so that worker threads and child processes are the files that ship.
export default defineConfig({
  test: {
    include: ['dist/src/**/*.test.js', 'dist/test/**/*.test.js'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 120_000,
    server: { deps: { external: [/\/dist\//] } },
  },
});
