// What the HTTP API sends, as far as the pages read it.

/** A label set; `__name__` among the names. */
export type Labels = Record<string, string>;

/** Seconds since the epoch, and the value as text (`1e+21`, `NaN`, `+Inf` included). */
export type Point = [time: number, value: string];

/** A native histogram: each bucket is [rule, lower, upper, count]. */
export interface Histogram {
  count: string;
  sum: string;
  buckets?: [number, string, string, string][];
}

export type HistogramPoint = [time: number, value: Histogram];

export interface VectorSample {
  metric: Labels;
  value?: Point;
  histogram?: HistogramPoint;
}

export interface MatrixSeries {
  metric: Labels;
  values?: Point[];
  histograms?: HistogramPoint[];
}

export type QueryData =
  | { resultType: 'vector'; result: VectorSample[] }
  | { resultType: 'matrix'; result: MatrixSeries[] }
  | { resultType: 'scalar'; result: Point }
  | { resultType: 'string'; result: Point };

export interface Target {
  discoveredLabels: Labels;
  labels: Labels;
  scrapePool: string;
  scrapeUrl: string;
  globalUrl: string;
  lastError: string;
  lastScrape: string;
  lastScrapeDuration: number;
  health: 'up' | 'down' | 'unknown';
  scrapeInterval: string;
  scrapeTimeout: string;
}

export interface Targets {
  activeTargets: Target[];
  droppedTargetCounts: Record<string, number> | null;
}

/** An answer with what the user should know about it. */
export interface Answer<T> {
  data: T;
  warnings: string[];
  infos: string[];
}
