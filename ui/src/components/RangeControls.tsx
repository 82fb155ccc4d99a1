import { useEffect, useState } from 'preact/hooks';

import { RANGES, autoStep, formatDuration, neighbourRange, parseDuration } from '../lib/range';

/** What part of time a query shows. */
export interface Range {
  /** How long, seconds. */
  seconds: number;
  /** Where it ends, seconds since the epoch; undefined for now. */
  end?: number;
  /** Seconds between points; undefined for a fitting one. */
  step?: number;
}

interface Props {
  range: Range;
  graph: boolean;
  refresh: number;
  onRange: (range: Range) => void;
  onRefresh: (seconds: number) => void;
}

const REFRESHES = [0, 5, 15, 30, 60, 300];

/** Range, end, step and refresh. A table needs only the end. */
export function RangeControls({ range, graph, refresh, onRange, onRefresh }: Props) {
  const shift = (direction: number) => {
    const now = Date.now() / 1000;
    const end = (range.end ?? now) + (direction * range.seconds) / 2;
    onRange({ ...range, end: end >= now ? undefined : Math.round(end) });
  };
  return (
    <div class="controls" role="group" aria-label="Time">
      {graph && (
        <span class="joined">
          <button type="button" title="Shorter range" onClick={() => onRange({ ...range, seconds: neighbourRange(range.seconds, false) })}>
            −
          </button>
          <DurationField
            label="Range"
            value={range.seconds}
            list={RANGES}
            onChange={(seconds) => seconds !== undefined && onRange({ ...range, seconds })}
          />
          <button type="button" title="Longer range" onClick={() => onRange({ ...range, seconds: neighbourRange(range.seconds, true) })}>
            +
          </button>
        </span>
      )}
      <span class="joined">
        <button type="button" title="Earlier" onClick={() => shift(-1)}>
          ‹
        </button>
        <input
          type="datetime-local"
          step="1"
          aria-label={graph ? 'End of the range' : 'Time'}
          value={localInput(range.end ?? Date.now() / 1000)}
          class={range.end === undefined ? 'is-now' : ''}
          onChange={(event) => {
            const ms = new Date(event.currentTarget.value).getTime();
            if (Number.isFinite(ms)) onRange({ ...range, end: ms / 1000 });
          }}
        />
        <button type="button" title="Later" disabled={range.end === undefined} onClick={() => shift(1)}>
          ›
        </button>
        <button type="button" aria-pressed={range.end === undefined} onClick={() => onRange({ ...range, end: undefined })}>
          Now
        </button>
      </span>
      {graph && (
        <DurationField
          label="Step"
          value={range.step}
          placeholder={`auto (${formatDuration(autoStep(range.seconds))})`}
          onChange={(step) => onRange({ ...range, step })}
        />
      )}
      <label>
        Refresh
        <select value={refresh} onChange={(event) => onRefresh(Number(event.currentTarget.value))}>
          {REFRESHES.map((seconds) => (
            <option key={seconds} value={seconds}>
              {seconds === 0 ? 'off' : formatDuration(seconds)}
            </option>
          ))}
        </select>
      </label>
    </div>
  );
}

/** What `datetime-local` wants: local time without a zone. */
function localInput(seconds: number): string {
  const offset = new Date(seconds * 1000).getTimezoneOffset() * 60;
  return new Date((seconds - offset) * 1000).toISOString().slice(0, 19);
}

interface FieldProps {
  label: string;
  value: number | undefined;
  list?: string[];
  placeholder?: string;
  onChange: (seconds: number | undefined) => void;
}

/** A duration as text; empty for undefined. What cannot be read is marked and not handed on. */
function DurationField({ label, value, list, placeholder, onChange }: FieldProps) {
  const shown = value === undefined ? '' : formatDuration(value);
  const [text, setText] = useState(shown);
  useEffect(() => setText(shown), [shown]);
  const parsed = parseDuration(text);
  const bad = text.trim() !== '' && parsed === undefined;
  const id = `list-${label.toLowerCase()}`;
  return (
    <label>
      {label}
      <input
        class="duration"
        value={text}
        placeholder={placeholder}
        aria-invalid={bad}
        title={bad ? 'Not a duration: write 15s, 5m, 1h30m, …' : undefined}
        list={list && id}
        onInput={(event) => setText(event.currentTarget.value)}
        onChange={() => !bad && parsed !== value && onChange(parsed)}
        // the list of a filled field shows only what begins like it
        onFocus={(event) => event.currentTarget.select()}
      />
      {list && (
        <datalist id={id}>
          {list.map((item) => (
            <option key={item} value={item} />
          ))}
        </datalist>
      )}
    </label>
  );
}
