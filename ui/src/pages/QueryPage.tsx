import { useEffect, useState } from 'preact/hooks';

import { metricNames, queryInstant, queryRange } from '../api/client';
import type { Answer, QueryData } from '../api/types';
import { Graph } from '../components/Graph';
import { Annotations, ErrorBox } from '../components/Notices';
import { QueryInput } from '../components/QueryInput';
import { type Range, RangeControls } from '../components/RangeControls';
import { ResultTable } from '../components/ResultTable';
import { duration } from '../lib/format';
import { useLoad } from '../lib/load';
import { navigate } from '../lib/location';
import { autoStep, formatDuration, parseDuration } from '../lib/range';

/** More series than this come as a warning, not as a frozen page. */
const SERIES_MAX = 5000;
const RANGE_DEFAULT = 3600;

const EXAMPLES = [
  { query: 'sum by (mode) (rate(node_cpu_seconds_total{mode!="idle"}[1m]))', says: 'what the processors do' },
  { query: 'node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes', says: 'memory still to be had' },
  { query: 'up', says: 'which targets answer' },
];

type Tab = 'graph' | 'table';

/** What the address says is shown. */
interface Shown {
  query: string;
  tab: Tab;
  range: Range;
  refresh: number;
}

function read(params: URLSearchParams): Shown {
  const end = Number(params.get('end') ?? NaN);
  return {
    query: params.get('expr') ?? '',
    tab: params.get('tab') === 'table' ? 'table' : 'graph',
    range: {
      seconds: parseDuration(params.get('range') ?? '') ?? RANGE_DEFAULT,
      end: Number.isFinite(end) ? end : undefined,
      step: parseDuration(params.get('step') ?? ''),
    },
    refresh: parseDuration(params.get('refresh') ?? '') ?? 0,
  };
}

function address({ query, tab, range, refresh }: Shown): string {
  const params = new URLSearchParams({ expr: query, tab, range: formatDuration(range.seconds) });
  if (range.end !== undefined) params.set('end', String(range.end));
  if (range.step !== undefined) params.set('step', formatDuration(range.step));
  if (refresh > 0) params.set('refresh', formatDuration(refresh));
  return `/query?${params}`;
}

interface Result {
  shown: Shown;
  answer: Answer<QueryData>;
  start: number;
  end: number;
  step: number;
  seconds: number;
}

async function ask(shown: Shown, signal: AbortSignal): Promise<Result> {
  const { query, tab, range } = shown;
  const step = range.step ?? autoStep(range.seconds);
  const end = range.end ?? Date.now() / 1000;
  const begin = performance.now();
  if (tab === 'table') {
    const answer = await queryInstant(query, end, SERIES_MAX, signal);
    return { shown, answer, start: end, end, step, seconds: (performance.now() - begin) / 1000 };
  }
  // on the grid of the step, so that a refresh moves points and does not change them
  const last = Math.floor(end / step) * step;
  const start = last - Math.floor(range.seconds / step) * step;
  const answer = await queryRange(query, start, last, step, SERIES_MAX, signal);
  return { shown, answer, start, end: last, step, seconds: (performance.now() - begin) / 1000 };
}

/** Type a query, see a graph or a table. */
export function QueryPage({ params, dark }: { params: URLSearchParams; dark: boolean }) {
  const shown = read(params);
  const [text, setText] = useState(shown.query);
  const [runs, setRuns] = useState(0);
  const [metrics, setMetrics] = useState<string[]>([]);

  // back and forward bring their query along
  useEffect(() => setText(shown.query), [shown.query]);
  useEffect(() => {
    const controller = new AbortController();
    // without names there is no completion, and everything else works
    metricNames(controller.signal).then((answer) => setMetrics(answer.data), () => undefined);
    return () => controller.abort();
  }, []);

  const show = (change: Partial<Shown>) => navigate(address({ ...shown, query: text, ...change }));
  const run = (query = text) => {
    if (query.trim() === '') return;
    setText(query);
    setRuns((n) => n + 1);
    navigate(address({ ...shown, query }));
  };

  const key = shown.query.trim() === '' ? '' : `${address({ ...shown, refresh: 0 })}#${runs}`;
  const { answer: result, error, loading } = useLoad(key, shown.refresh, (signal) => ask(shown, signal));

  return (
    <main>
      <QueryInput value={text} metrics={metrics} running={loading} onChange={setText} onRun={() => run()} />
      <div class="bar">
        <div class="tabs" role="tablist">
          {(['graph', 'table'] as const).map((tab) => (
            <button key={tab} type="button" role="tab" aria-selected={shown.tab === tab} onClick={() => show({ tab })}>
              {tab === 'graph' ? 'Graph' : 'Table'}
            </button>
          ))}
        </div>
        <RangeControls
          range={shown.range}
          graph={shown.tab === 'graph'}
          refresh={shown.refresh}
          onRange={(range) => show({ range })}
          onRefresh={(refresh) => show({ refresh })}
        />
      </div>
      {error && <ErrorBox error={error} query={shown.query} />}
      {result && !error && <Annotations warnings={result.answer.warnings} infos={result.answer.infos} />}
      <section class={`panel ${loading ? 'is-loading' : ''}`} aria-busy={loading}>
        {key === '' ? (
          <Examples onPick={run} />
        ) : error ? null : result ? (
          <ResultPanel result={result} dark={dark} onZoom={(range) => show({ range })} />
        ) : (
          <p class="empty">Asking…</p>
        )}
      </section>
    </main>
  );
}

function ResultPanel({ result, dark, onZoom }: { result: Result; dark: boolean; onZoom: (range: Range) => void }) {
  const { answer, shown, start, end, step, seconds } = result;
  const data = answer.data;
  const graph = shown.tab === 'graph' && data.resultType === 'matrix';
  const count = data.resultType === 'vector' || data.resultType === 'matrix' ? data.result.length : 1;
  return (
    <>
      {!graph ? (
        <ResultTable data={data} />
      ) : count === 0 ? (
        <p class="empty">No data in this range.</p>
      ) : (
        <Graph
          series={data.result}
          start={start}
          end={end}
          step={step}
          dark={dark}
          onZoom={(from, to) => onZoom({ seconds: Math.max(Math.round(to - from), 1), end: Math.round(to), step: shown.range.step })}
        />
      )}
      <p class="facts">
        {graph ? `a point every ${formatDuration(step)}` : `${count} series`} · answered in {duration(seconds)}
      </p>
    </>
  );
}

function Examples({ onPick }: { onPick: (query: string) => void }) {
  return (
    <div class="empty">
      <p>Type a query above, or start with one of these:</p>
      <ul class="examples">
        {EXAMPLES.map(({ query, says }) => (
          <li key={query}>
            <button type="button" onClick={() => onPick(query)}>
              <code>{query}</code>
            </button>
            <span>{says}</span>
          </li>
        ))}
      </ul>
    </div>
  );
}
