import { execFileSync } from 'node:child_process';
import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ClipdClient } from '../../src/client/index.js';
import { journeyPage, summaryOf } from '../../src/report/index.js';
import { type JourneyReply, SpanFate } from '../../src/wire/index.js';
import { Clipctl } from '../support/clipctl.js';
import { layerLike } from '../support/gzip.js';
import { writeImage } from '../support/images.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { dir, file, tar } from '../support/tar.js';

// `clipctl report` of real mounts, looked at in Debian's Chromium. Needs root and /dev/fuse.

const FILES = Array.from({ length: 6 }, (_, i) => `data/file-${i}`);

let registry: TestRegistry;
let clip: Clipctl;
let browser: Browser;
let place: string;

beforeAll(async () => {
  registry = await startRegistry();
  const content = FILES.map((name, i) => file(name, layerLike(3_000_000, i)));
  const image = writeImage([tar(dir('data'), ...content)]);
  await registry.push(image.reference, 'app:one');
  image.remove();
  clip = await Clipctl.create();
  place = await clip.place('mnt');
  await clip.ok('index', '--image', `${registry.host}/app:one`, '--out', clip.path('app.clip'));
  // Its sandbox needs more than CI's containers allow.
  browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] });
}, 60_000);
afterAll(async () => {
  await browser?.close();
  await clip?.close();
  await registry?.stop();
});

interface Opened {
  readonly page: Page;
  /** What the page said on the console, and errors that nothing caught. */
  readonly said: readonly string[];
  /** Milliseconds of its own thread until everything was drawn: what the machine does besides does not count. */
  readonly took: number;
}

async function open(path: string, colorScheme: 'light' | 'dark' = 'light'): Promise<Opened> {
  const page = await browser.newPage({ colorScheme, viewport: { width: 1100, height: 900 } });
  const said: string[] = [];
  page.on('console', (message) => said.push(message.text()));
  page.on('pageerror', (error) => said.push(error.message));
  page.on('request', (request) => {
    if (!request.url().startsWith('file:')) said.push(`asks for ${request.url()}`);
  });
  const session = await page.context().newCDPSession(page);
  await session.send('Performance.enable', { timeDomain: 'threadTicks' });
  await page.goto(`file://${path}`);
  await page.waitForSelector('html[data-ready=true]');
  const { metrics } = await session.send('Performance.getMetrics');
  const seconds = metrics.find(({ name }) => name === 'TaskDuration')!.value;
  return { page, said, took: 1000 * seconds };
}

/** Moves over a plot from left to right until there is a tip. */
async function tipOver(page: Page, selector: string): Promise<string> {
  await page.locator(selector).first().scrollIntoViewIfNeeded();
  const box = await page.locator(selector).first().boundingBox();
  if (box === null) throw new Error(`${selector} is not shown`);
  const tip = page.locator('#tip');
  for (let x = 2; x < box.width; x += 3) {
    await page.mouse.move(box.x + x, box.y + Math.min(4, box.height / 2));
    if (await tip.isVisible()) return (await tip.textContent()) ?? '';
  }
  return '';
}

const luminance = (rgb: string): number => (rgb.match(/\d+/g) ?? []).slice(0, 3).reduce((sum, n) => sum + Number(n), 0);

test('a mount is drawn while it exists and after it has ended: reads, fetches, spans, files, in light and dark', async () => {
  await clip.ok('mount', '--clip', clip.path('app.clip'), '--at', place, '--no-prefetch');
  for (const name of FILES.slice(0, 3)) await readFile(join(place, name));
  // What `clipctl run --stats` tells of its container.
  const client = new ClipdClient(clip.path('root'));
  await client.noteFirstExec({ mountPoint: place, milliseconds: 1 });
  await client.noteFirstExec({ mountPoint: place, milliseconds: 2, event: 'output' });
  const out = clip.path('live.html');
  const made = await clip.json<{ reads: number; bytes: number; advice: string[] }>('report', place, '--out', out);
  expect(made.reads).toBeGreaterThan(2);
  expect(made.bytes).toBe(statSync(out).size);
  expect(made.bytes).toBeLessThan(400_000);
  expect(made.advice.length).toBeGreaterThan(0);

  const backgrounds: number[] = [];
  for (const scheme of ['light', 'dark'] as const) {
    const { page, said } = await open(out, scheme);
    expect(said).toEqual([]);
    expect(await page.locator('h1').textContent()).toBe(`${registry.host}/app:one`);
    expect(await page.locator('#advice li').allTextContents()).toEqual(made.advice);
    expect(await page.locator('#files tbody tr').count()).toBeGreaterThanOrEqual(3);
    expect(await page.locator('#files').textContent()).toContain('/data/file-0');
    expect(await page.locator('#facts').textContent()).toMatch(
      /First exec .* after the mount\. First output .* after the mount\./,
    );
    // Hover shows the file: over a read, over a fetch, over a span of the map.
    expect(await tipOver(page, '#reads .u-over')).toMatch(/^\/data\/file-\d\n.* from registry\n/);
    expect(await tipOver(page, '#fetches .u-over')).toMatch(/from registry in .*\n.*layer 1, spans/s);
    expect(await tipOver(page, '#layers canvas')).toMatch(/^span \d+: /);
    backgrounds.push(luminance(await page.evaluate<string>('getComputedStyle(document.body).backgroundColor')));
    await page.close();
  }
  expect(backgrounds[0]).toBeGreaterThan(600);
  expect(backgrounds[1]).toBeLessThan(150);

  await clip.ok('umount', place);
  const ended = clip.path('ended.html');
  const after = await clip.json<{ reads: number }>('report', place, '--out', ended);
  expect(after.reads).toBe(made.reads);
  const { page, said } = await open(ended);
  expect(said).toEqual([]);
  expect(await page.locator('#facts').textContent()).toContain('until ');
  await page.close();
  // Without a clipd, too.
  await clip.stop();
  expect((await clip.json<{ reads: number }>('report', place, '--out', ended)).reads).toBe(made.reads);
  expect(await clip.run(['report', clip.path('nowhere'), '--out', ended])).toMatchObject({ code: 3, stdout: '' });
}, 60_000);

test('a journey of more than a day ago is not found any more', async () => {
  const directory = clip.path('cache', 'journeys');
  const [name] = execFileSync('ls', [directory], { encoding: 'utf8' }).trim().split('\n');
  const path = join(directory, name!);
  const journey = JSON.parse(readFileSync(path, 'utf8')) as JourneyReply;
  writeFileSync(path, JSON.stringify({ ...journey, endedAt: new Date(Date.now() - 25 * 3600_000).toISOString() }));
  const ran = await clip.run(['report', place, '--out', clip.path('old.html')]);
  expect(ran.code).toBe(3);
  expect(ran.stderr).toContain('nothing is known of a clip mount at');
});

/** As a server describes it, with names that want to be HTML. */
function syntheticJourney(reads: number, least = 0.1): JourneyReply {
  const column = (f: (i: number) => number): number[] => Array.from({ length: reads }, (_, i) => f(i));
  return {
    format: 1,
    reference: '</script><script>alert(1)</script>',
    archivePath: '/nonexistent.clip',
    identity: 'sha256:0',
    places: ['/mnt/<b>x</b>$&'],
    mountedAt: '2026-01-01T00:00:00.000Z',
    endedAt: null,
    profile: null,
    firstExec: 12_000,
    firstOutput: 59_900,
    layers: [
      {
        digest: `sha256:${'0'.repeat(64)}`,
        size: 10e9,
        uncompressedSize: 20e9,
        ends: Array.from({ length: 20_000 }, (_, i) => (i + 1) * 1e6),
        fates: Array.from({ length: 20_000 }, (_, i) => i % 5),
      },
    ],
    columns: {
      sources: ['registry', 'mirror', 'layout', 's3', 'file', 'content_cache', 'disk_cache'],
      reads: {
        at: column((i) => (i * 60_000) / reads),
        took: column((i) => least + ((i * 7919) % 1000)),
        nid: column((i) => i % 5000),
        offset: column((i) => (i % 1000) * 131_072),
        length: column(() => 131_072),
        source: column((i) => (i % 8 === 7 ? -1 : i % 8)),
      },
      fetches: {
        at: [0, 100],
        took: [50, 60],
        layer: [0, 0],
        first: [0, 10],
        end: [10, 20],
        bytes: [4e6, 6e6],
        reason: [0, 2],
        source: [0, 0],
      },
      droppedReads: 3,
      droppedFetches: 0,
    },
  };
}

test.each([0.06, 0.155_2, 0.97 * 1.6, 3, 15.52, 159.9])(
  'whatever the shortest wait is, the page is drawn: %s ms',
  async (least) => {
    const path = clip.path('short.html');
    writeFileSync(path, journeyPage(syntheticJourney(400, least)));
    const { page, said } = await open(path);
    expect(said).toEqual([]);
    await page.close();
  },
);

test('a million reads are drawn within two seconds, and names are text and nothing else', async () => {
  const path = clip.path('million.html');
  writeFileSync(path, journeyPage(syntheticJourney(1_000_000)));
  const { page, said, took } = await open(path);
  expect(said).toEqual([]);
  expect(took).toBeGreaterThan(10);
  expect(took).toBeLessThan(2000);
  expect(await page.locator('h1').textContent()).toBe('</script><script>alert(1)</script>');
  expect(await page.locator('#facts').textContent()).toContain('/mnt/<b>x</b>$&');
  expect(await tipOver(page, '#reads .u-over')).toMatch(/^inode \d+\n/);
  // A zoom shows the reads of a shorter time, and a double click all of them again.
  const box = (await page.locator('#reads .u-over').boundingBox())!;
  const lastTick = (): Promise<string> =>
    page.evaluate<string>("document.querySelector('#reads .u-legend .u-value').textContent");
  await page.mouse.move(box.x + 0.25 * box.width, box.y + 50);
  await page.mouse.down();
  await page.mouse.move(box.x + 0.3 * box.width, box.y + 50, { steps: 4 });
  await page.mouse.up();
  await page.mouse.move(box.x + 0.5 * box.width, box.y + 50);
  const zoomed = Number.parseFloat(await lastTick());
  expect(zoomed).toBeGreaterThan(15);
  expect(zoomed).toBeLessThan(18.5);
  await page.mouse.dblclick(box.x + 0.5 * box.width, box.y + 50);
  await page.mouse.move(box.x + 0.95 * box.width, box.y + 52);
  expect(Number.parseFloat(await lastTick())).toBeGreaterThan(50);
  expect(said).toEqual([]);
  await page.close();
  rmSync(path);
}, 60_000);

test('advice follows from what happened', () => {
  const journey = syntheticJourney(0);
  const of = (change: Partial<JourneyReply>): readonly string[] => summaryOf({ ...journey, ...change }).advice;
  const fates = journey.layers[0]!.fates.map(() => SpanFate.untouched);
  const layers = [{ ...journey.layers[0]!, fates }];
  expect(of({ layers })).toEqual(['Readers waited 0.0 s in all. There is nothing to mend.']);
  const waits = (took: number): JourneyReply['columns'] => ({
    ...journey.columns,
    reads: { at: [0, 1000], took: [took, took], nid: [1, 2], offset: [0, 0], length: [1, 1], source: [0, 0] },
  });
  // Two reads of 0.9 s, 10 MB that a link of 0.1 MB/ms brings in 0.1 s.
  expect(of({ layers, columns: waits(900) }).join()).toMatch(/clipctl optimize\) would have saved about 1\.\d s/);
  expect(of({ layers, columns: waits(900), profile: 'recorded' }).join()).not.toContain('optimize');
  expect(of({ columns: waits(1) }).join()).toContain('fetched ahead and not read');
  const failed = { ...waits(1), reads: { ...waits(1).reads, source: [-1, 0] } };
  expect(of({ layers, columns: failed })[0]).toMatch(/^1 read failed or was given up/);
});

test('no more is unread than was fetched, and what a fill fetched is no bad guess', () => {
  const journey = syntheticJourney(0);
  const fates = journey.layers[0]!.fates.map(() => SpanFate.unread);
  const layers = [{ ...journey.layers[0]!, fates }];
  const of = (reason: number): { unreadBytes: number; advice: string } => {
    const fetches = { ...journey.columns.fetches, reason: journey.columns.fetches.at.map(() => reason) };
    const { unreadBytes, advice } = summaryOf({ ...journey, layers, columns: { ...journey.columns, fetches } });
    return { unreadBytes, advice: advice.join() };
  };
  const fetched = journey.columns.fetches.bytes.reduce((sum, one) => sum + one, 0);
  const [demand, guessed, filled] = [of(0), of(4), of(3)];
  expect([demand.unreadBytes, guessed.unreadBytes, filled.unreadBytes]).toEqual([0, fetched, fetched]);
  expect(guessed.advice).toContain('fetched ahead and not read');
  expect(filled.advice).not.toContain('fetched ahead and not read');
});

test('what was fetched counts the bytes of a layout, and not what was in the disk cache', () => {
  const journey = syntheticJourney(0);
  const of = (sources: JourneyReply['columns']['sources']) => {
    const fetches = { ...journey.columns.fetches, source: journey.columns.fetches.at.map(() => 0) };
    const { fetchedBytes, fetches: count } = summaryOf({
      ...journey,
      columns: { ...journey.columns, sources, fetches },
    });
    return [fetchedBytes, count];
  };
  const { at, bytes } = journey.columns.fetches;
  expect(of(['layout'])).toEqual([bytes.reduce((sum, one) => sum + one, 0), at.length]);
  expect(of(['disk_cache'])).toEqual([0, 0]);
});

// Attack: the reference of an archive is free text, and the page is made by putting it into a template.
test('a reference cannot write into the page', () => {
  const none = {
    at: [],
    took: [],
    nid: [],
    offset: [],
    length: [],
    layer: [],
    first: [],
    end: [],
    bytes: [],
    reason: [],
  };
  const columns = { sources: [], reads: { ...none, source: [] }, fetches: { ...none, source: [] } };
  const page = (reference: string): string =>
    journeyPage({
      format: 1,
      reference,
      archivePath: '/none',
      identity: '',
      places: [],
      mountedAt: new Date(0).toISOString(),
      endedAt: null,
      profile: null,
      firstExec: null,
      firstOutput: null,
      layers: [],
      columns: { ...columns, droppedReads: 0, droppedFetches: 0 },
    });
  const dataOf = (text: string): string | undefined => /<script type="text\/plain" id="data">([^<]*)</.exec(text)?.[1];
  expect(dataOf(page('image'))).toMatch(/^[A-Za-z0-9+/=]+$/);
  for (const reference of ['@DATA@', '@TITLE@', "$&$'", '</title><script>alert(1)</script>']) {
    const made = page(reference);
    expect(dataOf(made)).toMatch(/^[A-Za-z0-9+/=]+$/);
    expect(made.match(/<script/g)).toHaveLength(page('image').match(/<script/g)!.length);
  }
  expect(page('@DATA@')).toContain('<h1>@DATA@</h1>');
});
