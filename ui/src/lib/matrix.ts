// From the API's matrix to the columns that a graph draws.

import type { MatrixSeries } from '../api/types';

/** One shared column of times (seconds), and a column of values for each series: null is a gap. */
export interface Columns {
  times: number[];
  values: (number | null)[][];
}

/**
 * Puts every series on the grid of the query. Infinities and NaN cannot be drawn and become gaps.
 * Histograms have no line; their count stands in.
 */
export function toColumns(series: MatrixSeries[], start: number, end: number, step: number): Columns {
  const count = Math.floor((end - start) / step + 1e-6) + 1;
  const times = Array.from({ length: count }, (_, at) => start + at * step);
  const values = series.map((one) => {
    const column = new Array<number | null>(count).fill(null);
    const put = (time: number, text: string) => {
      const at = Math.round((time - start) / step);
      const value = Number(text);
      if (at >= 0 && at < count && Number.isFinite(value)) column[at] = value;
    };
    for (const [time, value] of one.values ?? []) put(time, value);
    for (const [time, value] of one.histograms ?? []) put(time, value.count);
    return column;
  });
  return { times, values };
}

/** The last value of a column, if it has any. */
export function lastValue(column: (number | null)[]): number | null {
  return column.findLast((value) => value !== null) ?? null;
}
