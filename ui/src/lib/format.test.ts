import { describe, expect, test } from 'vitest';

import { dateTime, duration, seriesName, shortNumber, tickLabels } from './format';

test.each([
  [0, '0'],
  [1, '1'],
  [-1.5, '-1.5'],
  [0.25, '0.25'],
  [0.012345, '0.01235'],
  [0.0012, '1.2m'],
  [0.0000034, '3.4µ'],
  [999.96, '1k'],
  [999.94, '999.9'],
  [1000, '1k'],
  [123456, '123.5k'],
  [1e6, '1M'],
  [8.5e9, '8.5G'],
  [2e20, '200E'],
  [1e21, '1e+21'],
  [1.5e-13, '1.5e-13'],
  [NaN, 'NaN'],
  [Infinity, '+Inf'],
  [-Infinity, '-Inf'],
])('%d is written %s', (value, text) => {
  expect(shortNumber(value)).toBe(text);
});

describe('ticks share a unit and have the precision of their distance', () => {
  test.each([
    [[0, 0.5, 1, 1.5], ['0', '0.5', '1', '1.5']],
    [[1000000, 1000010, 1000020], ['1M', '1.00001M', '1.00002M']],
    [[0, 2e9, 4e9], ['0', '2G', '4G']],
    [[-0.2, -0.1, 2.7e-17, 0.1], ['-0.2', '-0.1', '0', '0.1']],
    [[0.998, 0.999, 1], ['0.998', '0.999', '1']],
    [[0, 0.008, 0.009, 0.01], ['0', '0.008', '0.009', '0.01']],
    [[800, 900, 1000], ['0.8k', '0.9k', '1k']],
    [[5], ['5']],
    [[], []],
  ])('%j', (ticks, labels) => {
    expect(tickLabels(ticks)).toEqual(labels);
  });
});

test.each([
  [{}, '{}'],
  [{ __name__: 'up' }, 'up'],
  [{ __name__: 'up', job: 'a"b' }, 'up{job="a\\"b"}'],
  [{ 'http.status': '200' }, '{"http.status"="200"}'],
])('%j is written %s', (labels, text) => {
  expect(seriesName(labels as Record<string, string>)).toBe(text);
});

test.each([
  [0.00025, '250µs'],
  [0.0125, '12.5ms'],
  [1, '1s'],
  [59.94, '59.9s'],
  [60, '1m'],
  [200, '3m 20s'],
  [7200, '2h'],
  [187200, '2d 4h'],
])('%d seconds are written %s', (seconds, text) => {
  expect(duration(seconds)).toBe(text);
});

test('times are local, and to the second', () => {
  const seconds = new Date(2026, 10, 2, 4, 5, 6).getTime() / 1000;
  expect(dateTime(seconds)).toBe('2026-11-02 04:05:06');
  expect(dateTime(seconds + 0.25)).toBe('2026-11-02 04:05:06.250');
});
