// The plots of docs/benchmarks.md, drawn from its tables: no figure is in one that is not in the other.
import * as echarts from 'echarts';

/** Between the colours of a light and of a dark page. */
const INK = '#7d8590';
const OURS = '#2f81f7';
const OTHERS = '#9a9fa6';

type Option = echarts.EChartsCoreOption;

function draw(name: string, option: Option, width: number, height: number): string {
  const chart = echarts.init(null, null, { renderer: 'svg', ssr: true, width, height });
  chart.setOption({ animation: false, textStyle: { color: INK, fontFamily: 'system-ui, sans-serif' }, ...option });
  // Its classes are numbered on, and its style sheet is for hovering, which a picture has not.
  const svg = chart
    .renderToSVGString()
    .replace(/<style[\s\S]*?<\/style>/g, '')
    .replace(/ class="[^"]*"/g, '')
    .replace(/zr\d+-/g, 'plot-')
    .replace('>', `><title>${name}</title>`);
  chart.dispose();
  return `${svg}\n`;
}

/** The cells of a table's rows, the header left out. */
function cells(text: string): string[][] {
  return text
    .split('\n')
    .filter((line) => line.startsWith('|') && !/^\|[-|]+$/.test(line.replaceAll(' ', '')))
    .slice(1)
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
}

function between(page: string, begin: string, end: string): string {
  const from = page.indexOf(begin);
  const to = from < 0 ? -1 : page.indexOf(end, from + begin.length);
  if (to < 0) throw new Error(`docs/benchmarks.md has no ${begin} … ${end}`);
  return page.slice(from + begin.length, to);
}

const suite = (page: string, name: string): string => between(page, `<!-- ${name} -->`, `<!-- /${name} -->`);

/** "1,234 ms (1 to 2)" */
const numberOf = (cell: string): number => Number.parseFloat(cell.replaceAll(',', ''));

/** The last line of a suite: machine and day. */
const whereOf = (text: string): string => text.trim().split('\n').at(-1) ?? '';

const title = (text: string, subtext: string): Option => ({
  text,
  subtext,
  textStyle: { color: INK, fontSize: 15 },
  subtextStyle: { color: INK, fontSize: 11 },
});

function coldStart(page: string): string {
  const others = cells(between(page, '## Where the others stand', '\n## ')).map(([name = '', , , seconds = '']) => ({
    name: name.replaceAll(/[`\\]/g, ''),
    seconds: numberOf(seconds),
    color: OTHERS,
  }));
  const own = suite(page, 'coldstart');
  const ours = cells(own).flatMap(([metric = '', value = '']) => {
    const [, what] = /^1 Gbit\/s, (.*): ready$/.exec(metric) ?? [];
    return what === undefined ? [] : [{ name: `clip, ${what}`, seconds: numberOf(value), color: OURS }];
  });
  const bars = [...others, ...ours].filter(({ seconds }) => seconds > 0).sort((a, b) => b.seconds - a.seconds);
  return draw(
    'Cold start by system',
    {
      title: title(
        'Cold start: seconds until numpy, scipy and pandas are imported, 1 Gbit/s and 20 ms',
        `npm run bench -- coldstart; ${whereOf(own)}`,
      ),
      grid: { left: 330, right: 60, top: 60, bottom: 30 },
      xAxis: { type: 'value', splitLine: { lineStyle: { color: INK, opacity: 0.25 } }, axisLabel: { color: INK } },
      yAxis: {
        type: 'category',
        data: bars.map(({ name }) => name),
        axisLabel: { color: INK },
        axisTick: { show: false },
      },
      series: [
        {
          type: 'bar',
          data: bars.map(({ seconds, color }) => ({ value: seconds, itemStyle: { color } })),
          label: { show: true, position: 'right', color: INK, formatter: '{c} s' },
        },
      ],
    },
    940,
    90 + 26 * bars.length,
  );
}

const PANELS = [
  ['index', 'index, s'],
  ['memory of index', 'memory of index, MB'],
  ['archive', 'archive, MB'],
  ['mount', 'mount, ms'],
  ['lookup', 'lookup, µs'],
  ['server', 'memory of the server, MB'],
] as const;

/** A panel for each figure of a suite of sizes, both axes logarithmic; with the spread of the runs. */
function growth(page: string, name: string, of: string): string {
  const text = suite(page, name);
  const rows = cells(text).map(([metric = '', value = '']) => {
    const [size = '', what = ''] = metric.split(': ');
    const [, least = value, most = value] = /\((.*) to (.*)\)/.exec(value) ?? [];
    return { size, what, value: numberOf(value), spread: [numberOf(least), numberOf(most)] };
  });
  const sizes = [...new Set(rows.map(({ size }) => size))];
  const columns = 3;
  const [width, height] = [270, 190];
  const at = (i: number): { left: number; top: number } => ({
    left: 60 + (i % columns) * (width + 55),
    top: 95 + Math.floor(i / columns) * (height + 75),
  });
  return draw(
    `Cost by ${of}`,
    {
      title: [
        title(`Cost by ${of}`, `npm run bench -- ${name}; ${whereOf(text)}; bars: least and greatest of the runs`),
        ...PANELS.map(([, label], i) => ({
          text: label,
          left: at(i).left,
          top: at(i).top - 26,
          textStyle: { color: INK, fontSize: 12, fontWeight: 'normal' },
        })),
      ],
      grid: PANELS.map((_, i) => ({ ...at(i), width, height })),
      xAxis: PANELS.map((_, i) => ({
        type: 'category',
        gridIndex: i,
        data: sizes.map((size) => size.replace(' files', '')),
        axisLabel: { color: INK },
      })),
      yAxis: PANELS.map((_, i) => ({
        type: 'log',
        gridIndex: i,
        axisLabel: { color: INK },
        splitLine: { lineStyle: { color: INK, opacity: 0.25 } },
      })),
      series: PANELS.flatMap(([what], i) => {
        const own = sizes.map((size) => rows.find((row) => row.size === size && row.what === what));
        const axes = { xAxisIndex: i, yAxisIndex: i };
        return [
          {
            type: 'line',
            ...axes,
            data: own.map((row) => row?.value ?? null),
            symbolSize: 7,
            itemStyle: { color: OURS },
            lineStyle: { color: OURS },
            label: { show: true, position: 'top', color: INK, fontSize: 10 },
          },
          {
            type: 'custom',
            ...axes,
            data: own.flatMap((row, x) => (row === undefined ? [] : [[x, ...row.spread]])),
            renderItem: (_: unknown, api: echarts.CustomSeriesRenderItemAPI) => {
              const [x1 = 0, y1 = 0] = api.coord([api.value(0), api.value(1)]);
              const [x2 = 0, y2 = 0] = api.coord([api.value(0), api.value(2)]);
              return { type: 'line', shape: { x1, y1, x2, y2 }, style: { stroke: OURS, lineWidth: 2, opacity: 0.6 } };
            },
          },
        ];
      }),
    },
    60 + columns * (width + 55),
    95 + 2 * (height + 75),
  );
}

/** By file name, in docs/plots. */
export function plotsOf(page: string): Record<string, string> {
  return {
    'coldstart.svg': coldStart(page),
    'scale-files.svg': growth(page, 'scale-files', 'number of files'),
    'scale-bytes.svg': growth(page, 'scale-bytes', 'compressed size of a layer'),
  };
}
