import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';

import type { MatrixSeries } from '../api/types';
import { lineColor } from '../lib/colors';
import { dateTime, seriesName, shortNumber, tickLabels } from '../lib/format';
import { lastValue, toColumns } from '../lib/matrix';
import { SeriesLabel } from './SeriesLabel';

/** More lines than this tell nobody anything, and cost the browser dear. */
export const LINES_MAX = 200;

const HEIGHT = 380;

// uPlot's table of time labels: from this distance of ticks on (seconds), this label, and below it
// one that appears where the year, the day or the minute changes. Twenty-four hours, year first.
const DAY = '\n{YYYY}-{MM}-{DD}';
const TIME_FORMATS: uPlot.Axis.Values = [
  [365 * 86400, '{YYYY}', null, null, null, null, null, null, 1],
  [28 * 86400, '{YYYY}-{MM}', null, null, null, null, null, null, 1],
  [86400, '{MM}-{DD}', '\n{YYYY}', null, null, null, null, null, 1],
  [60, '{HH}:{mm}', DAY, null, DAY, null, null, null, 1],
  [1, '{HH}:{mm}:{ss}', DAY, null, DAY, null, null, null, 1],
  [0.001, '{HH}:{mm}:{ss}.{fff}', DAY, null, DAY, null, null, null, 1],
];

interface Props {
  series: MatrixSeries[];
  start: number;
  end: number;
  step: number;
  dark: boolean;
  /** The user has drawn over a part of the time. */
  onZoom: (start: number, end: number) => void;
}

/** Lines over time; hovering shows all values at that time, the legend switches lines. */
export function Graph({ series, start, end, step, dark, onZoom }: Props) {
  const host = useRef<HTMLDivElement>(null);
  const zoom = useRef(onZoom);
  zoom.current = onZoom;
  const [hovered, setHovered] = useState<number | null>(null);
  const [focused, setFocused] = useState<number | null>(null);
  const [only, setOnly] = useState<ReadonlySet<number>>(new Set());

  const shown = useMemo(() => series.slice(0, LINES_MAX), [series]);
  const columns = useMemo(() => toColumns(shown, start, end, step), [shown, start, end, step]);
  const plot = useRef<uPlot>();

  useEffect(() => setOnly(new Set()), [shown.length, shown.map((one) => seriesName(one.metric)).join()]);

  useEffect(() => {
    const element = host.current;
    if (!element) return;
    const style = getComputedStyle(document.documentElement);
    const color = (name: string) => style.getPropertyValue(name).trim();
    const axis = { stroke: color('--quiet'), grid: { stroke: color('--grid'), width: 1 }, ticks: { show: false } };
    const options: uPlot.Options = {
      width: element.clientWidth,
      height: HEIGHT,
      legend: { show: false },
      cursor: { points: { size: 7 }, focus: { prox: 24 }, drag: { x: true, y: false }, y: false },
      focus: { alpha: 0.3 },
      scales: { x: { range: () => [start, end] } },
      axes: [
        { ...axis, space: 70, values: TIME_FORMATS },
        { ...axis, size: 64, values: (_, ticks) => tickLabels(ticks) },
      ],
      series: [
        {},
        ...shown.map((one, at): uPlot.Series => ({
          label: seriesName(one.metric),
          stroke: lineColor(at, dark),
          width: 1.5,
          show: only.size === 0 || only.has(at),
          points: { show: undefined, size: 4, filter: lonely },
        })),
      ],
      hooks: {
        setCursor: [(u) => setHovered(u.cursor.idx ?? null)],
        setSeries: [(_, at) => setFocused(at === null ? null : at - 1)],
        setSelect: [
          (u) => {
            if (u.select.width < 4) return;
            const from = u.posToVal(u.select.left, 'x');
            const to = u.posToVal(u.select.left + u.select.width, 'x');
            zoom.current(from, to);
          },
        ],
      },
    };
    const drawn = new uPlot(options, [columns.times, ...columns.values], element);
    plot.current = drawn;
    const resized = new ResizeObserver(() => drawn.setSize({ width: element.clientWidth, height: HEIGHT }));
    resized.observe(element);
    return () => {
      resized.disconnect();
      drawn.destroy();
      setHovered(null);
    };
  }, [columns, shown, dark, start, end, only]);

  const toggle = (at: number, event: MouseEvent) => {
    const next = new Set(event.ctrlKey || event.metaKey ? only : []);
    if (only.has(at) && (next.size > 0 || only.size === 1)) next.delete(at);
    else next.add(at);
    setOnly(next);
  };

  const when = hovered === null ? undefined : columns.times[hovered];
  return (
    <div class="graph">
      <div ref={host} class="plot" />
      <table class="legend">
        <thead>
          <tr>
            <th>
              {series.length > shown.length
                ? `${shown.length} of ${series.length} series drawn`
                : `${series.length} series`}
            </th>
            <th class="value">{when === undefined ? 'last value' : dateTime(when)}</th>
          </tr>
        </thead>
        <tbody>
          {shown.map((one, at) => {
            const column = columns.values[at] ?? [];
            const value = hovered === null ? lastValue(column) : (column[hovered] ?? null);
            const hidden = only.size > 0 && !only.has(at);
            return (
              <tr
                key={at}
                class={`${hidden ? 'is-hidden' : ''} ${focused === at && hovered !== null ? 'is-focused' : ''}`}
                onClick={(event) => toggle(at, event)}
                onMouseEnter={() => plot.current?.setSeries(at + 1, { focus: true })}
                onMouseLeave={() => plot.current?.setSeries(null, { focus: false })}
                title="Click: only this line. Ctrl+click: add or remove it."
              >
                <td>
                  <span class="swatch" style={{ background: lineColor(at, dark) }} />
                  <SeriesLabel labels={one.metric} />
                </td>
                <td class="value" title={value === null ? undefined : String(value)}>
                  {value === null ? '–' : shortNumber(value, 5)}
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

/** Points without neighbours, which no line shows. */
function lonely(u: uPlot, seriesAt: number): number[] | null {
  const column = u.data[seriesAt] ?? [];
  const found: number[] = [];
  column.forEach((value, at) => {
    if (value != null && column[at - 1] == null && column[at + 1] == null) found.push(at);
  });
  return found;
}
