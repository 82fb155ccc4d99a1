// The address bar as state: one page, found by its path, with what it shows in the query string.

import { useEffect, useState } from 'preact/hooks';

const CHANGED = 'marigraph:location';

/** Goes to `url`; as a new entry of the history, or in place of the present one. */
export function navigate(url: string, replace = false): void {
  if (url === location.pathname + location.search) return;
  if (replace) history.replaceState(null, '', url);
  else history.pushState(null, '', url);
  dispatchEvent(new Event(CHANGED));
}

/** Path and parameters; the component renders again when they change. */
export function useLocation(): { path: string; params: URLSearchParams } {
  const [, render] = useState(0);
  useEffect(() => {
    const again = () => render((n) => n + 1);
    addEventListener('popstate', again);
    addEventListener(CHANGED, again);
    return () => {
      removeEventListener('popstate', again);
      removeEventListener(CHANGED, again);
    };
  }, []);
  return { path: location.pathname, params: new URLSearchParams(location.search) };
}
