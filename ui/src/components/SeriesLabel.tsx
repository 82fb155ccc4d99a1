import type { Labels } from '../api/types';

/** A series: the name, then its labels, quieter. */
export function SeriesLabel({ labels }: { labels: Labels }) {
  const { __name__: name, ...rest } = labels;
  const pairs = Object.entries(rest);
  if (name === undefined && pairs.length === 0) return <span class="series">{'{}'}</span>;
  return (
    <span class="series">
      {name}
      {pairs.length > 0 && (
        <span class="labels">
          {'{'}
          {pairs.map(([label, value], at) => (
            <span key={label}>
              {at > 0 && ', '}
              <i>{label}</i>=<q>{value}</q>
            </span>
          ))}
          {'}'}
        </span>
      )}
    </span>
  );
}
