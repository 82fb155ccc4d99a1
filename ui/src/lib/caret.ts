// Where in a query an error or warning points.

const encoder = new TextEncoder();

/** The line at fault and the column of the caret, both from 0; columns in characters. */
export interface Place {
  line: number;
  column: number;
}

/** The place that `... 2:7: parse error: ...` names; the server counts columns in bytes, from 1. */
export function errorPlace(message: string, query: string): Place | undefined {
  const found = /(?:^|: )(\d+):(\d+): parse error/.exec(message);
  if (!found) return undefined;
  const line = Number(found[1]) - 1;
  const text = query.split('\n')[line];
  if (text === undefined) return undefined;
  const bytes = Number(found[2]) - 1;
  let column = 0;
  let passed = 0;
  for (const character of text) {
    if (passed >= bytes) break;
    passed += encoder.encode(character).length;
    column += 1;
  }
  return { line, column };
}
