// Asking the server from a component: loading, answer, error, refresh; one request at a time.

import { useEffect, useRef, useState } from 'preact/hooks';

export interface Loaded<T> {
  /** The last answer; stays while a new one is under way. */
  answer?: T;
  /** Why the last request failed. */
  error?: Error;
  loading: boolean;
}

/**
 * Runs `ask` whenever `key` changes, and every `everySeconds` after an answer when that is not 0.
 * A newer request ends the older one. An empty key asks nothing.
 */
export function useLoad<T>(key: string, everySeconds: number, ask: (signal: AbortSignal) => Promise<T>): Loaded<T> {
  const [state, setState] = useState<Loaded<T>>({ loading: false });
  const latest = useRef(ask);
  latest.current = ask;
  useEffect(() => {
    if (key === '') {
      setState({ loading: false });
      return;
    }
    const controller = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const run = async () => {
      setState((before) => ({ ...before, loading: true }));
      try {
        const answer = await latest.current(controller.signal);
        if (controller.signal.aborted) return;
        setState({ answer, loading: false });
      } catch (cause) {
        if (controller.signal.aborted) return;
        const error = cause instanceof Error ? cause : new Error(String(cause));
        setState((before) => ({ ...before, error, loading: false }));
      }
      if (everySeconds > 0) timer = setTimeout(run, everySeconds * 1000);
    };
    void run();
    return () => {
      controller.abort();
      clearTimeout(timer);
    };
  }, [key, everySeconds]);
  return state;
}
