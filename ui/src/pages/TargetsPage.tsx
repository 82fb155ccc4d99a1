import { useState } from 'preact/hooks';

import { targets } from '../api/client';
import type { Target } from '../api/types';
import { Annotations, ErrorBox } from '../components/Notices';
import { duration } from '../lib/format';
import { useLoad } from '../lib/load';

const REFRESH_SECONDS = 10;

/** What is scraped, and how it goes. */
export function TargetsPage() {
  const [text, setText] = useState('');
  const [onlyBad, setOnlyBad] = useState(false);
  const { answer, error, loading } = useLoad('targets', REFRESH_SECONDS, targets);
  const all = answer?.data.activeTargets ?? [];
  const count = (health: Target['health']) => all.filter((target) => target.health === health).length;
  const down = count('down');
  const shown = all.filter((target) => (!onlyBad || target.health !== 'up') && contains(target, text.trim().toLowerCase()));
  const pools = Map.groupBy(shown, (target) => target.scrapePool);
  return (
    <main>
      <div class="bar">
        <input
          type="search"
          aria-label="Find targets"
          placeholder="Find by address, label or error"
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
        />
        <label class="check">
          <input type="checkbox" checked={onlyBad} onChange={(event) => setOnlyBad(event.currentTarget.checked)} />
          Only those not up
        </label>
        <p class="facts">
          {all.length} targets, {count('up')} answering{down > 0 && <b class="bad">, {down} down</b>}
        </p>
      </div>
      {error && <ErrorBox error={error} />}
      {answer && <Annotations warnings={answer.warnings} infos={answer.infos} />}
      {!answer && !error && <p class="empty">{loading ? 'Asking…' : ''}</p>}
      {answer && all.length === 0 && (
        <p class="empty">
          Nothing is scraped yet. Add a <code>scrape_configs</code> section to the configuration.
        </p>
      )}
      {answer && all.length > 0 && shown.length === 0 && <p class="empty">No target fits.</p>}
      {[...pools].map(([pool, members]) => (
        <Pool key={pool} name={pool} targets={members} dropped={answer?.data.droppedTargetCounts?.[pool] ?? 0} />
      ))}
    </main>
  );
}

function contains(target: Target, text: string): boolean {
  if (text === '') return true;
  const labels = Object.entries(target.labels).map(([name, value]) => `${name}=${value}`);
  return [target.scrapeUrl, target.lastError, ...labels].some((part) => part.toLowerCase().includes(text));
}

function Pool({ name, targets, dropped }: { name: string; targets: Target[]; dropped: number }) {
  const up = targets.filter((target) => target.health === 'up').length;
  return (
    <section class="panel">
      <h2>
        {name}
        <small>
          {up} of {targets.length} up{dropped > 0 && `, ${dropped} dropped by relabelling`}
        </small>
      </h2>
      <div class="scroll">
        <table class="targets">
          <thead>
            <tr>
              <th>Endpoint</th>
              <th>State</th>
              <th>Labels</th>
              <th>Last scrape</th>
              <th>Took</th>
              <th>Every</th>
            </tr>
          </thead>
          <tbody>
            {targets.map((target) => (
              <Row key={target.scrapeUrl + JSON.stringify(target.labels)} target={target} />
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function Row({ target }: { target: Target }) {
  return (
    <tr>
      <td>
        <a href={target.globalUrl} rel="noreferrer">
          {target.scrapeUrl}
        </a>
        {target.lastError !== '' && <div class="bad">{target.lastError}</div>}
      </td>
      <td>
        <span class={`state ${target.health}`}>{target.health}</span>
      </td>
      <td>
        {Object.entries(target.labels).map(([name, value]) => (
          <span class="chip" key={name}>
            {name}="{value}"
          </span>
        ))}
      </td>
      <td class="figure">{ago(target.lastScrape)}</td>
      <td class="figure">{target.lastScrapeDuration > 0 ? duration(target.lastScrapeDuration) : '–'}</td>
      <td class="figure">{target.scrapeInterval}</td>
    </tr>
  );
}

function ago(when: string): string {
  // the zero time of the API: never
  if (when.startsWith('0001-')) return 'never';
  return `${duration(Math.max((Date.now() - Date.parse(when)) / 1000, 0.001))} ago`;
}
