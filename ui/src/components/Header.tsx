import { navigate } from '../lib/location';
import type { Theme } from '../lib/theme';

const PAGES = [
  { path: '/query', name: 'Query' },
  { path: '/targets', name: 'Targets' },
];

/** Name, pages, links out, theme. */
export function Header({ path, theme, onTheme }: { path: string; theme: Theme; onTheme: () => void }) {
  const go = (event: MouseEvent, to: string) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a new tab
    event.preventDefault();
    navigate(to);
  };
  return (
    <header class="top">
      <a class="brand" href="/query" onClick={(event) => go(event, '/query')}>
        <img src="/favicon.svg" alt="" width="22" height="22" />
        Marigraph
      </a>
      <nav aria-label="Pages">
        {PAGES.map((page) => (
          <a
            key={page.path}
            href={page.path}
            aria-current={path === page.path ? 'page' : undefined}
            onClick={(event) => go(event, page.path)}
          >
            {page.name}
          </a>
        ))}
      </nav>
      <nav class="out" aria-label="Raw data">
        <a href="/api/v1/status/tsdb">API</a>
        <a href="/metrics">Metrics</a>
        <button type="button" class="quiet" onClick={onTheme} title={`Switch to ${theme === 'dark' ? 'light' : 'dark'}`}>
          {theme === 'dark' ? 'Light' : 'Dark'}
        </button>
      </nav>
    </header>
  );
}
