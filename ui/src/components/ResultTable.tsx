import { useState } from 'preact/hooks';

import type { Histogram, Labels, MatrixSeries, QueryData, VectorSample } from '../api/types';
import { dateTime, time } from '../lib/format';
import { SeriesLabel } from './SeriesLabel';

/** Rows shown before the user asks for all. */
const ROWS_AT_FIRST = 500;

interface Row {
  labels: Labels;
  values: string[];
}

/** The answer of an instant query. */
export function ResultTable({ data }: { data: QueryData }) {
  const [all, setAll] = useState(false);
  if (data.resultType === 'scalar' || data.resultType === 'string') {
    return (
      <table class="result">
        <tbody>
          <tr>
            <td>{data.resultType}</td>
            <td class="value">{data.result[1]}</td>
          </tr>
        </tbody>
      </table>
    );
  }
  const rows = data.resultType === 'vector' ? data.result.map(vectorRow) : data.result.map(matrixRow);
  if (rows.length === 0) {
    return <p class="empty">No series match at this time.</p>;
  }
  const shown = all ? rows : rows.slice(0, ROWS_AT_FIRST);
  return (
    <>
      <table class="result">
        <tbody>
          {shown.map((row, at) => (
            <tr key={at}>
              <td>
                <SeriesLabel labels={row.labels} />
              </td>
              <td class="value">
                {row.values.map((value, n) => (
                  <div key={n}>{value}</div>
                ))}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {rows.length > shown.length && (
        <p class="more">
          {ROWS_AT_FIRST} of {rows.length} series.{' '}
          <button type="button" onClick={() => setAll(true)}>
            Show all
          </button>
        </p>
      )}
    </>
  );
}

function vectorRow({ metric, value, histogram }: VectorSample): Row {
  return { labels: metric, values: [value ? value[1] : histogram ? histogramText(histogram[1]) : ''] };
}

function matrixRow({ metric, values = [], histograms = [] }: MatrixSeries): Row {
  const points: [number, string][] = [
    ...values,
    ...histograms.map(([at, histogram]): [number, string] => [at, histogramText(histogram)]),
  ];
  points.sort(([a], [b]) => a - b);
  const first = points[0]?.[0] ?? 0;
  const last = points.at(-1)?.[0] ?? 0;
  const at = last - first > 80_000 ? dateTime : time;
  return { labels: metric, values: points.map(([when, value]) => `${value}  @ ${at(when)}`) };
}

function histogramText({ count, sum, buckets = [] }: Histogram): string {
  const parts = buckets.map(([rule, lower, upper, population]) => {
    const open = rule === 1 || rule === 3 ? '[' : '(';
    const close = rule === 0 || rule === 3 ? ']' : ')';
    return `${open}${lower}, ${upper}${close}: ${population}`;
  });
  return [`count ${count}, sum ${sum}`, ...parts].join('\n');
}
