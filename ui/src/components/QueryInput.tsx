import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';

import { type Candidate, candidates, wordStart } from '../lib/complete';

interface Props {
  value: string;
  metrics: string[];
  running: boolean;
  onChange: (value: string) => void;
  onRun: () => void;
}

interface Popup {
  /** Where the word begins that a candidate replaces. */
  from: number;
  found: Candidate[];
  /** The candidate under the keyboard; -1 until the arrows are used, so that Enter still runs. */
  at: number;
}

/** The query: Enter runs, Shift+Enter breaks the line, Tab or the arrows complete. */
export function QueryInput({ value, metrics, running, onChange, onRun }: Props) {
  const area = useRef<HTMLTextAreaElement>(null);
  const cursorAfter = useRef<number>();
  const [popup, setPopup] = useState<Popup>();

  useEffect(() => area.current?.focus(), []);

  useLayoutEffect(() => {
    const element = area.current;
    if (!element) return;
    fitHeight(element);
    if (cursorAfter.current !== undefined) {
      element.setSelectionRange(cursorAfter.current, cursorAfter.current);
      cursorAfter.current = undefined;
    }
  }, [value]);

  // a narrower window breaks the text into more lines
  useEffect(() => {
    const fit = () => area.current && fitHeight(area.current);
    addEventListener('resize', fit);
    return () => removeEventListener('resize', fit);
  }, []);

  const suggest = (text: string, cursor: number) => {
    const from = wordStart(text, cursor);
    const found = from === undefined ? [] : candidates(text.slice(from, cursor), metrics);
    setPopup(from === undefined || found.length === 0 ? undefined : { from, found, at: -1 });
  };

  const accept = (candidate: Candidate | undefined) => {
    const element = area.current;
    if (!popup || !candidate || !element) return;
    const rest = value.slice(element.selectionEnd);
    const opened = candidate.kind === 'function' && !rest.startsWith('(') ? '(' : '';
    const text = value.slice(0, popup.from) + candidate.text + opened;
    cursorAfter.current = text.length;
    setPopup(undefined);
    onChange(text + rest);
    element.focus();
  };

  const onKeyDown = (event: KeyboardEvent) => {
    if (event.isComposing) return;
    if (popup) {
      const count = popup.found.length;
      switch (event.key) {
        case 'ArrowDown':
          event.preventDefault();
          setPopup({ ...popup, at: (popup.at + 1) % count });
          return;
        case 'ArrowUp':
          event.preventDefault();
          setPopup({ ...popup, at: (popup.at <= 0 ? count : popup.at) - 1 });
          return;
        case 'Tab':
          event.preventDefault();
          accept(popup.found[Math.max(popup.at, 0)]);
          return;
        case 'Escape':
          event.preventDefault();
          setPopup(undefined);
          return;
        case 'Enter':
          if (popup.at >= 0 && !event.shiftKey) {
            event.preventDefault();
            accept(popup.found[popup.at]);
            return;
          }
      }
    }
    if (event.key === 'Enter' && !event.shiftKey) {
      event.preventDefault();
      setPopup(undefined);
      onRun();
    }
  };

  return (
    <div class="query">
      <div class="query-field">
        <textarea
          ref={area}
          rows={1}
          value={value}
          aria-label="PromQL query"
          aria-autocomplete="list"
          aria-controls="completion"
          aria-expanded={popup !== undefined}
          placeholder="A PromQL query: Enter runs it, Shift+Enter starts a new line"
          spellcheck={false}
          autocapitalize="off"
          autocomplete="off"
          onInput={(event) => {
            const element = event.currentTarget;
            onChange(element.value);
            suggest(element.value, element.selectionEnd);
          }}
          onKeyDown={onKeyDown}
          onBlur={() => setPopup(undefined)}
        />
        {popup && (
          <ul id="completion" class="completion" role="listbox">
            {popup.found.map((candidate, at) => (
              <li
                key={candidate.kind + candidate.text}
                role="option"
                aria-selected={at === popup.at}
                // before the blur of the text area, which closes the list
                onMouseDown={(event) => {
                  event.preventDefault();
                  accept(candidate);
                }}
              >
                <span>{candidate.text}</span>
                <small>{candidate.kind}</small>
              </li>
            ))}
          </ul>
        )}
      </div>
      <button type="button" class="primary" onClick={onRun} disabled={value.trim() === ''}>
        {running ? 'Running…' : 'Run'}
      </button>
    </div>
  );
}

/** As high as its text. */
function fitHeight(element: HTMLTextAreaElement): void {
  element.style.height = 'auto';
  element.style.height = `${element.scrollHeight + 2}px`;
}
