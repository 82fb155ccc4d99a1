// Time ranges and steps: what the controls offer and the URL holds.

const UNITS: Record<string, number> = { ms: 0.001, s: 1, m: 60, h: 3600, d: 86400, w: 604800, y: 31536000 };

/** Seconds of `90`, `15s`, `1h30m`; undefined for anything else or for nothing at all. */
export function parseDuration(text: string): number | undefined {
  const trimmed = text.trim();
  if (/^\d+(\.\d+)?$/.test(trimmed)) return Number(trimmed) || undefined;
  if (!/^(\d+(ms|[smhdwy]))+$/.test(trimmed)) return undefined;
  let seconds = 0;
  for (const [, count, unit] of trimmed.matchAll(/(\d+)(ms|[smhdwy])/g)) {
    seconds += Number(count) * (UNITS[unit ?? ''] ?? NaN);
  }
  return seconds > 0 ? seconds : undefined;
}

/** `1h30m`: what `parseDuration` reads. */
export function formatDuration(seconds: number): string {
  let rest = Math.round(seconds * 1000);
  let text = '';
  for (const unit of ['d', 'h', 'm', 's', 'ms']) {
    const length = Math.round((UNITS[unit] ?? 1) * 1000);
    const count = Math.floor(rest / length);
    if (count > 0) text += `${count}${unit}`;
    rest -= count * length;
  }
  return text || '0s';
}

/** What the range can be set to, shortest first. */
export const RANGES = ['1m', '5m', '15m', '30m', '1h', '3h', '6h', '12h', '1d', '2d', '7d', '14d', '30d', '90d', '365d'];

/** The next longer (or shorter) range of the list. */
export function neighbourRange(seconds: number, longer: boolean): number {
  const all = RANGES.map((range) => parseDuration(range) ?? 0);
  const found = longer ? all.find((range) => range > seconds) : all.findLast((range) => range < seconds);
  return found ?? seconds;
}

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

/** A round step that gives a range of `seconds` about 250 points. */
export function autoStep(seconds: number): number {
  const wanted = seconds / 300;
  return STEPS.find((step) => step >= wanted) ?? Math.ceil(wanted / 86400) * 86400;
}
