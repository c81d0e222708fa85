// The program of a report's page. Plots are uPlot's; this file reads the data, sums it up for the pixels there are, and shows tips.
import uPlot from 'uplot';

const REASONS = ['readers waited', 'read-ahead', 'prefetch', 'fill', 'speculation'];
const FATES = [
  ['untouched', '--none'],
  ['read, fetched for the reader', '--c1'],
  ['read, fetched before', '--c2'],
  ['fetched and not read', '--bad'],
  ['read, was in the cache', '--c0'],
];
const CELL = 9;
/** Cells of a layer's map; of more spans several share one. */
const MAX_CELLS = 8192;

const $ = (id) => document.getElementById(id);
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const bytes = (n) => {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let i = 0;
  let value = n;
  while (value >= 1000 && i < units.length - 1) {
    value /= 1000;
    i++;
  }
  return `${i === 0 ? value : value.toFixed(1)} ${units[i]}`;
};
const ms = (n) => (n < 1000 ? `${n.toFixed(n < 10 ? 1 : 0)} ms` : `${(n / 1000).toFixed(2)} s`);

async function load() {
  const text = $('data').textContent;
  const raw = atob(text);
  const packed = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) packed[i] = raw.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate-raw'));
  const data = await new Response(stream).arrayBuffer();
  const length = new DataView(data).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  let at = 4 + length;
  const column = (Type) => {
    const size = head.reads * Type.BYTES_PER_ELEMENT;
    const values = new Type(data.slice(at, at + size));
    at += size;
    return values;
  };
  const reads = {
    at: column(Float32Array),
    took: column(Float32Array),
    file: column(Uint32Array),
    length: column(Uint32Array),
    offset: column(Float64Array),
    source: column(Int8Array),
  };
  return { head, reads };
}

function tip(text, event) {
  const box = $('tip');
  box.hidden = text === null;
  if (text === null) return;
  box.textContent = text;
  const { clientX: x, clientY: y } = event;
  box.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.offsetWidth - 8))}px`;
  box.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - box.offsetHeight - 8))}px`;
}

/** The slowest read of each source in each of `count` moments of [from, to]. */
function bin({ at, took, source }, sources, from, to, count) {
  const x = new Float64Array(count);
  const step = (to - from) / count;
  for (let i = 0; i < count; i++) x[i] = (from + (i + 0.5) * step) / 1000;
  const slowest = Array.from({ length: sources + 1 }, () => new Int32Array(count).fill(-1));
  const number = new Uint32Array(count);
  let low = 0;
  for (let high = at.length; low < high; ) {
    const middle = (low + high) >> 1;
    if (at[middle] < from) low = middle + 1;
    else high = middle;
  }
  for (let i = low; i < at.length && at[i] <= to; i++) {
    const slot = Math.min(count - 1, Math.floor((at[i] - from) / step));
    const of = slowest[source[i] < 0 ? sources : source[i]];
    number[slot]++;
    if (of[slot] < 0 || took[of[slot]] < took[i]) of[slot] = i;
  }
  return { x, slowest, number };
}

const axes = (unit) => [
  {
    stroke: () => color('--dim'),
    grid: { stroke: () => color('--line'), width: 1 },
    ticks: { show: false },
    values: (_, v) => v.map((s) => `${+s.toFixed(3)} s`),
  },
  {
    stroke: () => color('--dim'),
    grid: { stroke: () => color('--line'), width: 1 },
    ticks: { show: false },
    size: 70,
    values: (_, v) => v.map((n) => (n === null ? '' : unit(n))),
  },
];

/**
 * From below the least to above the greatest, in milliseconds. The lower end has one digit: uPlot counts up from it by powers of ten, and from 0.097 it
 * would come to 0.11 and back to 0, for ever.
 */
function waitRange(_, low, high) {
  if (low === null || !(low > 0)) return [1, 10];
  const decade = 10 ** Math.floor(Math.log10(low / 1.6));
  return [Math.floor(low / 1.6 / decade) * decade, high * 1.6];
}

/** Upright lines at the moments that the runtime told of. */
const drawMarks = (marks) => (u) => {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  ctx.fillStyle = ctx.strokeStyle = color('--front');
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
  marks.forEach(([at, name], i) => {
    const x = u.valToPos(at / 1000, 'x', true);
    if (x < bbox.left || x > bbox.left + bbox.width) return;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    // To the left where there is no room, and one below the other.
    const right = x + ctx.measureText(name).width + 8 < bbox.left + bbox.width;
    ctx.textAlign = right ? 'left' : 'right';
    ctx.fillText(name, right ? x + 4 : x - 4, bbox.top + (12 + 13 * i) * devicePixelRatio);
  });
  ctx.restore();
};

function readPlot({ head, reads }, end) {
  const box = $('reads');
  if (head.reads === 0) {
    box.textContent = 'No read had to wait.';
    return null;
  }
  const used = new Set(reads.source);
  const names = [...head.sources.map((name) => name.replace('_', ' ')), 'error'];
  const shown = names.map((_, i) => i).filter((i) => used.has(i === head.sources.length ? -1 : i));
  let moments = null;
  const dataOf = (from, to) => {
    moments = bin(
      reads,
      head.sources.length,
      from,
      to,
      Math.max(200, Math.min(1200, Math.floor(box.clientWidth / 1.5))),
    );
    return [
      moments.x,
      ...shown.map((i) =>
        Array.from(moments.slowest[i], (read) => (read < 0 ? null : Math.max(0.05, reads.took[read]))),
      ),
    ];
  };
  const at = (plot, event) => {
    const index = plot.cursor.idx;
    if (index === null || index === undefined) return tip(null);
    let read = -1;
    for (let near = 0; near < 12 && read < 0; near++) {
      for (const slot of [index - near, index + near]) {
        for (const i of shown) {
          const other = moments.slowest[i][slot] ?? -1;
          if (other >= 0 && (read < 0 || reads.took[other] > reads.took[read])) read = other;
        }
      }
    }
    if (read < 0) return tip(null);
    const source = reads.source[read] < 0 ? 'error' : names[reads.source[read]];
    const others = moments.number[index] > 1 ? `\n${moments.number[index]} reads at this moment` : '';
    tip(
      `${head.files[reads.file[read]]}\n${ms(reads.took[read])} for ${bytes(reads.length[read])} at ${reads.offset[read]}, from ${source}\n${ms(reads.at[read])} after the mount${others}`,
      event,
    );
  };
  const plot = new uPlot(
    {
      width: box.clientWidth,
      height: 300,
      scales: { x: { time: false }, y: { distr: 3, range: waitRange } },
      axes: axes(ms),
      cursor: { sync: { key: 'time' }, drag: { x: true, y: false } },
      series: [
        { label: 'time', value: (_, v) => (v === null ? '' : `${v.toFixed(3)} s`) },
        ...shown.map((i) => ({
          label: names[i],
          paths: () => null,
          points: { show: true, size: 5, width: 0, fill: () => color(i === head.sources.length ? '--bad' : `--c${i}`) },
          stroke: () => color(i === head.sources.length ? '--bad' : `--c${i}`),
          value: (_, v) => (v === null ? '' : ms(v)),
        })),
      ],
      hooks: {
        draw: [drawMarks(head.marks)],
        // A zoom shows the reads of a shorter time in as many moments.
        setScale: [
          (u, key) => {
            if (key !== 'x' || moments === null) return;
            const { min, max } = u.scales.x;
            const step = (moments.x[1] - moments.x[0]) * 1000;
            const [from, to] = [Math.max(0, min * 1000), Math.min(end, max * 1000)];
            const seen = moments.x.length * step;
            if (to - from > seen * 0.98 && to - from < seen * 1.02) return;
            if (to <= from) return;
            queueMicrotask(() => u.setData(dataOf(from, to), false));
          },
        ],
      },
    },
    dataOf(0, end),
    box,
  );
  plot.over.addEventListener('mousemove', (event) => at(plot, event));
  plot.over.addEventListener('mouseleave', () => tip(null));
  plot.over.addEventListener('dblclick', () => {
    plot.setData(dataOf(0, end), false);
    plot.setScale('x', { min: 0, max: end / 1000 });
  });
  return plot;
}

function fetchPlot({ head }, end) {
  const { fetches } = head;
  const box = $('fetches');
  if (fetches.at.length === 0) {
    box.textContent = 'Nothing was fetched.';
    return null;
  }
  const order = fetches.at
    .map((_, i) => i)
    .sort((a, b) => fetches.at[a] + fetches.took[a] - fetches.at[b] - fetches.took[b]);
  const x = [0];
  const sums = REASONS.map(() => [0]);
  const fetched = [-1];
  for (const i of order) {
    x.push((fetches.at[i] + fetches.took[i]) / 1000);
    fetched.push(i);
    sums.forEach((column, reason) => {
      column.push(column.at(-1) + (fetches.reason[i] === reason ? fetches.bytes[i] : 0));
    });
  }
  x.push(end / 1000);
  fetched.push(-1);
  for (const column of sums) column.push(column.at(-1));
  const shown = REASONS.map((_, i) => i).filter((i) => sums[i].at(-1) > 0);
  const plot = new uPlot(
    {
      width: box.clientWidth,
      height: 220,
      scales: { x: { time: false } },
      axes: axes(bytes),
      cursor: { sync: { key: 'time' }, drag: { x: true, y: false } },
      series: [
        { label: 'time', value: (_, v) => (v === null ? '' : `${v.toFixed(3)} s`) },
        ...shown.map((i) => ({
          label: REASONS[i],
          stroke: () => color(`--c${i}`),
          width: 2,
          paths: uPlot.paths.stepped({ align: 1 }),
          points: { show: false },
          value: (_, v) => (v === null ? '' : bytes(v)),
        })),
      ],
      hooks: { draw: [drawMarks(head.marks)] },
    },
    [x, ...shown.map((i) => sums[i])],
    box,
  );
  plot.over.addEventListener('mousemove', (event) => {
    const i = fetched[plot.cursor.idx ?? 0] ?? -1;
    if (i < 0) return tip(null);
    const layer = fetches.layer[i];
    const names = head.layers[layer].names[fetches.first[i]] ?? [];
    const files = names.map((file) => `\n${head.files[file]}`).join('');
    tip(
      `${bytes(fetches.bytes[i])} from ${head.sources[fetches.source[i]].replace('_', ' ')} in ${ms(fetches.took[i])}: ${REASONS[fetches.reason[i]]}\nlayer ${layer + 1}, spans ${fetches.first[i]} to ${fetches.end[i] - 1}${files}`,
      event,
    );
  });
  plot.over.addEventListener('mouseleave', () => tip(null));
  return plot;
}

/** A square for each span, or for several; of these the one that tells most. */
function layerMap(layer, index, head, box) {
  const { spans, fates, names } = layer;
  const share = Math.max(1, Math.ceil(spans.length / MAX_CELLS));
  const cells = Math.ceil(spans.length / share);
  const title = document.createElement('p');
  const count = (fate) => [...fates].filter((one) => one === String(fate)).length;
  title.textContent = `${index + 1}: ${layer.digest.slice(0, 19)}, ${bytes(layer.size)} compressed, ${spans.length} spans: ${FATES.map(
    ([name], fate) => [count(fate), name],
  )
    .filter(([n]) => n > 0)
    .map(([n, name]) => `${n} ${name}`)
    .join('; ')}`;
  const canvas = document.createElement('canvas');
  box.append(title, canvas);
  const starts = new Float64Array(spans.length + 1);
  for (let i = 0; i < spans.length; i++) starts[i + 1] = starts[i] + spans[i];
  const fateOf = (cell) => {
    let best = 0;
    for (let i = cell * share; i < Math.min(spans.length, (cell + 1) * share); i++)
      best = Math.max(best, Number(fates[i]));
    return best;
  };
  let columns = 1;
  const draw = () => {
    const scale = devicePixelRatio || 1;
    columns = Math.max(1, Math.floor(box.clientWidth / CELL));
    const rows = Math.ceil(cells / columns);
    canvas.width = box.clientWidth * scale;
    canvas.height = rows * CELL * scale;
    canvas.style.height = `${rows * CELL}px`;
    const context = canvas.getContext('2d');
    context.scale(scale, scale);
    for (let cell = 0; cell < cells; cell++) {
      context.fillStyle = color(FATES[fateOf(cell)][1]);
      context.fillRect((cell % columns) * CELL, Math.floor(cell / columns) * CELL, CELL - 1, CELL - 1);
    }
  };
  canvas.addEventListener('mousemove', (event) => {
    const cell = Math.floor(event.offsetY / CELL) * columns + Math.floor(event.offsetX / CELL);
    if (cell >= cells) return tip(null);
    const first = cell * share;
    const last = Math.min(spans.length, first + share) - 1;
    const files = [];
    for (let i = first; i <= last; i++) for (const file of names[i] ?? []) if (!files.includes(file)) files.push(file);
    const which = first === last ? `span ${first}` : `spans ${first} to ${last}`;
    tip(
      `${which}: ${FATES[fateOf(cell)][0]}\n${bytes(starts[last + 1] - starts[first])} at ${bytes(starts[first])} of the tar${files
        .slice(0, 6)
        .map((file) => `\n${head.files[file]}`)
        .join('')}`,
      event,
    );
  });
  canvas.addEventListener('mouseleave', () => tip(null));
  draw();
  return draw;
}

function text({ head }) {
  const { summary } = head;
  document.querySelector('h1').textContent = head.reference;
  const until = head.endedAt === null ? 'still mounted' : `until ${new Date(head.endedAt).toLocaleString()}`;
  const dropped = head.droppedReads + head.droppedFetches;
  $('facts').textContent =
    `Mounted ${new Date(head.mountedAt).toLocaleString()}, ${until}, at ${head.places.join(', ') || 'no place'}. ` +
    `${summary.reads} reads waited, ${ms(summary.waited)} in all; ${bytes(summary.fetchedBytes)} fetched in ${summary.fetches} requests.` +
    head.marks.map(([at, name]) => ` ${name[0].toUpperCase()}${name.slice(1)} ${ms(at)} after the mount.`).join('') +
    (dropped > 0 ? ` ${dropped} later ones were not kept.` : '');
  for (const line of summary.advice) {
    const item = document.createElement('li');
    item.textContent = line;
    $('advice').append(item);
  }
  for (const [name, variable] of FATES) {
    const key = document.createElement('span');
    key.className = 'key';
    const swatch = document.createElement('i');
    swatch.style.background = `var(${variable})`;
    key.append(swatch, name);
    $('legend').append(key);
  }
  const body = document.querySelector('#files tbody');
  for (const [file, reads, waited, length] of head.top) {
    const row = body.insertRow();
    for (const cell of [ms(waited), reads, bytes(length), head.files[file]]) row.insertCell().textContent = cell;
  }
}

async function main() {
  const data = await load();
  const { head, reads } = data;
  let end = 1;
  for (let i = 0; i < reads.at.length; i++) end = Math.max(end, reads.at[i] + reads.took[i]);
  for (const [at] of head.marks) end = Math.max(end, at);
  head.fetches.at.forEach((at, i) => {
    end = Math.max(end, at + head.fetches.took[i]);
  });
  text(data);
  const plots = [readPlot(data, end), fetchPlot(data, end)].filter((plot) => plot !== null);
  const draws = head.layers.map((layer, index) => {
    const box = document.createElement('div');
    box.className = 'layer';
    $('layers').append(box);
    return layerMap(layer, index, head, box);
  });
  const redraw = () => {
    for (const plot of plots) plot.setSize({ width: plot.root.parentElement.clientWidth, height: plot.height });
    for (const draw of draws) draw();
  };
  addEventListener('resize', redraw);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
  // For tests, and for whoever saves a picture: everything is drawn.
  document.documentElement.dataset.ready = 'true';
}

void main();
