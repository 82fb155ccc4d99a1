// The one place that fetches.

import type { Answer, QueryData, Targets } from './types';

/** A request that failed: refused by the server, or never answered. */
export class ApiError extends Error {
  constructor(
    /** `bad_data`, `execution`, `timeout`, ..., or `network`. */
    readonly kind: string,
    message: string,
  ) {
    super(message);
  }
}

interface Envelope {
  status?: string;
  data?: unknown;
  errorType?: string;
  error?: string;
  warnings?: string[];
  infos?: string[];
}

async function request<T>(path: string, init: RequestInit): Promise<Answer<T>> {
  let response: Response;
  try {
    response = await fetch(path, init);
  } catch (cause) {
    if (init.signal?.aborted) throw cause;
    throw new ApiError('network', 'the server does not answer');
  }
  const text = await response.text();
  let envelope: Envelope;
  try {
    envelope = JSON.parse(text) as Envelope;
  } catch {
    const shown = text.trim().slice(0, 300) || response.statusText;
    throw new ApiError('network', `unexpected answer (status ${response.status}): ${shown}`);
  }
  if (envelope.status !== 'success') {
    throw new ApiError(envelope.errorType ?? 'unknown', envelope.error ?? `status ${response.status}`);
  }
  return { data: envelope.data as T, warnings: envelope.warnings ?? [], infos: envelope.infos ?? [] };
}

/** Queries go as forms: a URL has an end, a query may not. */
function post<T>(path: string, form: Record<string, string>, signal: AbortSignal): Promise<Answer<T>> {
  return request(path, { method: 'POST', body: new URLSearchParams(form), signal });
}

/** The value of `query` at `time`, seconds. */
export function queryInstant(query: string, time: number, limit: number, signal: AbortSignal) {
  return post<QueryData>('/api/v1/query', { query, time: String(time), limit: String(limit) }, signal);
}

/** The values of `query` from `start` to `end` by `step`, seconds. */
export function queryRange(query: string, start: number, end: number, step: number, limit: number, signal: AbortSignal) {
  const form = { query, start: String(start), end: String(end), step: String(step), limit: String(limit) };
  return post<QueryData>('/api/v1/query_range', form, signal);
}

/** All metric names, for completion. */
export function metricNames(signal?: AbortSignal) {
  return request<string[]>('/api/v1/label/__name__/values?limit=20000', { signal });
}

/** Targets being scraped, and how many were dropped. */
export function targets(signal: AbortSignal) {
  return request<Targets>('/api/v1/targets', { signal });
}
