// Light or dark: the system's choice, until the user makes another.

import { useEffect, useState } from 'preact/hooks';

export type Theme = 'light' | 'dark';

const KEY = 'marigraph.theme';
const dark = matchMedia('(prefers-color-scheme: dark)');

function chosen(): Theme | undefined {
  try {
    const theme = localStorage.getItem(KEY);
    return theme === 'light' || theme === 'dark' ? theme : undefined;
  } catch {
    return undefined; // storage may be forbidden
  }
}

/** The theme in force and a way to turn it round. */
export function useTheme(): [Theme, () => void] {
  const system = (): Theme => (dark.matches ? 'dark' : 'light');
  const [theme, setTheme] = useState<Theme>(chosen() ?? system());
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
  }, [theme]);
  useEffect(() => {
    const follow = () => setTheme(chosen() ?? system());
    dark.addEventListener('change', follow);
    return () => dark.removeEventListener('change', follow);
  }, []);
  const toggle = () => {
    const next = theme === 'dark' ? 'light' : 'dark';
    setTheme(next);
    try {
      localStorage.setItem(KEY, next);
    } catch {
      // then it lasts as long as the page
    }
  };
  return [theme, toggle];
}
