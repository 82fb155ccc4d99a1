// Numbers, times and label sets as people read them.

import type { Labels } from '../api/types';

const UNITS = ['', 'k', 'M', 'G', 'T', 'P', 'E'];
const SMALL_UNITS = ['', 'm', 'µ', 'n', 'p'];

/**
 * A number in at most `digits` digits with a unit prefix: `1.234k`, `250m`, `0`; with the prefix that
 * suits `like` where that is given.
 */
export function shortNumber(value: number, digits = 4, like = value): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? 'NaN' : value > 0 ? '+Inf' : '-Inf';
  if (value === 0 || like === 0) return '0';
  // rounding may carry a number into the next unit, so it comes first
  const rounded = Number(Math.abs(like).toPrecision(digits));
  if (rounded >= 1e21 || rounded < 1e-12) return trimmed(value.toExponential(digits - 1));
  const power = rounded >= 1 ? Math.floor(Math.log10(rounded) / 3 + 1e-9) : Math.floor(Math.log10(rounded) / 3);
  if (power >= 0) return trimmed((value / 1000 ** power).toPrecision(digits)) + (UNITS[power] ?? '');
  // plain decimals read better down to a hundredth
  if (rounded >= 0.01) return trimmed(value.toPrecision(digits));
  return trimmed((value * 1000 ** -power).toPrecision(digits)) + (SMALL_UNITS[-power] ?? '');
}

/** Without zeros that say nothing. */
function trimmed(text: string): string {
  return text.replace(/(\.\d*?)0+(e|$)/, '$1$2').replace(/\.(e|$)/, '$1');
}

/** Labels of axis ticks: all with the unit of the largest, and the precision that their distance needs. */
export function tickLabels(ticks: number[]): string[] {
  const gap = ticks.length > 1 ? Math.abs((ticks[1] ?? 0) - (ticks[0] ?? 0)) : 0;
  const largest = Math.max(...ticks.map(Math.abs), 0);
  // as many digits as tell neighbours apart at the largest tick
  const digits = gap > 0 && largest > 0 ? Math.ceil(Math.log10(largest / gap) + 1e-9) + 1 : 3;
  const shown = Math.min(Math.max(digits, 2), 15);
  return ticks.map((tick) => shortNumber(Math.abs(tick) < gap / 1e6 ? 0 : tick, shown, largest));
}

/** `{job="a", instance="b"}` behind the metric's name. */
export function seriesName(labels: Labels): string {
  const { __name__: name = '', ...rest } = labels;
  const pairs = Object.entries(rest).map(([label, value]) => `${labelName(label)}=${JSON.stringify(value)}`);
  return pairs.length > 0 || name === '' ? `${name}{${pairs.join(', ')}}` : name;
}

function labelName(name: string): string {
  return /^[a-zA-Z_][a-zA-Z0-9_]*$/.test(name) ? name : JSON.stringify(name);
}

/** Local date and time to the second: `2026-11-22 14:07:05`. */
export function dateTime(seconds: number): string {
  return `${date(seconds)} ${time(seconds)}`;
}

function two(n: number): string {
  return String(n).padStart(2, '0');
}

/** Local date: `2026-11-22`. */
export function date(seconds: number): string {
  const d = new Date(seconds * 1000);
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
}

/** Local time, with milliseconds where there are any: `14:07:05`, `14:07:05.250`. */
export function time(seconds: number): string {
  const d = new Date(Math.round(seconds * 1000));
  const ms = d.getMilliseconds();
  const fraction = ms === 0 ? '' : `.${String(ms).padStart(3, '0')}`;
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}${fraction}`;
}

/** A length of time in its two largest units: `1.2s`, `3m 20s`, `2d 4h`. */
export function duration(seconds: number): string {
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)}µs`;
  if (seconds < 1) return `${trimmed((seconds * 1000).toPrecision(3))}ms`;
  if (seconds < 60) return `${trimmed(seconds.toFixed(1))}s`;
  const whole = Math.round(seconds);
  const parts: [number, string][] = [
    [Math.floor(whole / 86400), 'd'],
    [Math.floor(whole / 3600) % 24, 'h'],
    [Math.floor(whole / 60) % 60, 'm'],
    [whole % 60, 's'],
  ];
  const first = parts.findIndex(([n]) => n > 0);
  return parts
    .slice(first, first + 2)
    .filter(([n]) => n > 0)
    .map(([n, unit]) => `${n}${unit}`)
    .join(' ');
}
