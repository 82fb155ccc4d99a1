import { errorPlace } from '../lib/caret';

/** Why there is no answer; with the place, where the query is at fault. */
export function ErrorBox({ error, query }: { error: Error & { kind?: string }; query?: string }) {
  const place = query === undefined ? undefined : errorPlace(error.message, query);
  const line = place && query?.split('\n')[place.line];
  return (
    <div class="notice error" role="alert">
      {error.kind && <strong>{error.kind.replace('_', ' ')}</strong>} {error.message}
      {place && (
        <pre>
          {line}
          {'\n'}
          {' '.repeat(place.column)}
          <b>^</b>
        </pre>
      )}
    </div>
  );
}

/** What the user should know about an answer. */
export function Annotations({ warnings, infos }: { warnings: string[]; infos: string[] }) {
  return (
    <>
      {warnings.length > 0 && <TextList kind="warning" texts={warnings} />}
      {infos.length > 0 && <TextList kind="info" texts={infos} />}
    </>
  );
}

function TextList({ kind, texts }: { kind: 'warning' | 'info'; texts: string[] }) {
  return (
    <ul class={`notice ${kind}`} role="status">
      {texts.map((text) => (
        <li key={text}>{text}</li>
      ))}
    </ul>
  );
}
