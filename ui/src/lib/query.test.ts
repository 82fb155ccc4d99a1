import { describe, expect, test } from 'vitest';

import { errorPlace } from './caret';
import { candidates, wordStart } from './complete';
import { toColumns } from './matrix';
import { autoStep, formatDuration, neighbourRange, parseDuration } from './range';

describe('durations', () => {
  test.each([
    ['90', 90],
    ['0.5', 0.5],
    ['15s', 15],
    ['1h30m', 5400],
    ['500ms', 0.5],
    ['1d', 86400],
    ['', undefined],
    ['0', undefined],
    ['0s', undefined],
    ['5x', undefined],
    ['m', undefined],
    ['-5m', undefined],
  ])('%s', (text, seconds) => {
    expect(parseDuration(text)).toBe(seconds);
  });

  test.each([15, 90, 3600, 5400, 86400, 0.5, 93784])('%d survives being written', (seconds) => {
    expect(parseDuration(formatDuration(seconds))).toBe(seconds);
  });

  test('ranges grow and shrink along the list, and stop at its ends', () => {
    expect(neighbourRange(3600, true)).toBe(10800);
    expect(neighbourRange(4000, false)).toBe(3600);
    expect(neighbourRange(60, false)).toBe(60);
  });

  test('steps are round and give at most 300 points', () => {
    expect(autoStep(60)).toBe(1);
    expect(autoStep(3600)).toBe(15);
    expect(autoStep(86400)).toBe(300);
    for (let range = 1; range < 1e9; range = range * 1.7 + 1) expect(range / autoStep(range)).toBeLessThanOrEqual(300);
  });
});

test('series stand on one grid, with gaps', () => {
  const series = [
    { metric: {}, values: [[100, '1'], [130, '3']] as [number, string][] },
    { metric: {}, values: [[115, 'NaN'], [130, '+Inf']] as [number, string][], histograms: [[100, { count: '7', sum: '1' }]] as never },
  ];
  expect(toColumns(series, 100, 130, 15)).toEqual({ times: [100, 115, 130], values: [[1, null, 3], [7, null, null]] });
});

test.each([
  ['invalid parameter "query": 1:5: parse error: unexpected end of input', 'sum(', { line: 0, column: 4 }],
  ['invalid parameter "query": 2:3: parse error: x', 'a +\nb c', { line: 1, column: 2 }],
  // columns count bytes
  ['1:6: parse error: x', '"é" +', { line: 0, column: 4 }],
  ['unknown position: parse error: no expression found in input', '', undefined],
  ['query timed out', 'up', undefined],
])('%s', (message, query, place) => {
  expect(errorPlace(message, query)).toEqual(place);
});

describe('completion', () => {
  test.each([
    ['no', 2, 0],
    ['sum(no', 6, 4],
    ['rate(x[5m', 9, undefined],
    ['up{job="no', 10, undefined],
    ['up{jo', 5, undefined],
    ['up{job="a"} + no', 16, 14],
    ['a ', 2, undefined],
  ])('%s', (query, cursor, from) => {
    expect(wordStart(query, cursor)).toBe(from);
  });

  test('beginnings come before the rest', () => {
    const metrics = ['node_rate', 'rate_limit', 'unrelated_metric'];
    expect(candidates('rate', metrics).map((c) => c.text)).toEqual(['rate', 'rate_limit', 'irate', 'node_rate']);
    expect(candidates('NODE_R', metrics)).toEqual([{ text: 'node_rate', kind: 'metric' }]);
    expect(candidates('node_rate', metrics)).toEqual([]);
  });
});
