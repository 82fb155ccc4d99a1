// Completion of the word at the cursor.

const FUNCTIONS =
  'abs absent absent_over_time acos acosh asin asinh atan atanh avg_over_time ceil changes clamp clamp_max clamp_min ' +
  'cos cosh count_over_time day_of_month day_of_week day_of_year days_in_month deg delta deriv exp first_over_time ' +
  'floor histogram_avg histogram_count histogram_fraction histogram_quantile histogram_stddev histogram_stdvar ' +
  'histogram_sum hour idelta increase irate label_join label_replace last_over_time ln log10 log2 max_over_time ' +
  'min_over_time minute month pi predict_linear present_over_time quantile_over_time rad rate resets round scalar ' +
  'sgn sin sinh sort sort_desc sqrt stddev_over_time stdvar_over_time sum_over_time tan tanh time timestamp vector year';
const AGGREGATIONS = 'avg bottomk count count_values group max min quantile stddev stdvar sum topk';
const KEYWORDS = 'and bool by group_left group_right ignoring offset on or unless without';

/** The kinds of candidates. */
export type Kind = 'metric' | 'function' | 'keyword';

export interface Candidate {
  text: string;
  kind: Kind;
}

const words = (text: string, kind: Kind) => text.split(' ').map((word): Candidate => ({ text: word, kind }));

const LANGUAGE = [...words(FUNCTIONS, 'function'), ...words(AGGREGATIONS, 'function'), ...words(KEYWORDS, 'keyword')];

/** Where the word that ends at `cursor` begins; nothing inside quotes or braces is a metric name. */
export function wordStart(query: string, cursor: number): number | undefined {
  const before = query.slice(0, cursor);
  const unquoted = before.replace(/"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`/g, (text) => ' '.repeat(text.length));
  if (/["'`]/.test(unquoted)) return undefined;
  if (unquoted.lastIndexOf('{') > unquoted.lastIndexOf('}')) return undefined;
  if (unquoted.lastIndexOf('[') > unquoted.lastIndexOf(']')) return undefined;
  const word = /[a-zA-Z_:][a-zA-Z0-9_:]*$/.exec(before);
  return word?.index;
}

/** What `word` may become: beginnings first, then what contains it, at most `limit`. */
export function candidates(word: string, metrics: string[], limit = 12): Candidate[] {
  const wanted = word.toLowerCase();
  const starts: Candidate[] = [];
  const contains: Candidate[] = [];
  const consider = (candidate: Candidate) => {
    const at = candidate.text.toLowerCase().indexOf(wanted);
    if (at === 0) starts.push(candidate);
    else if (at > 0) contains.push(candidate);
  };
  LANGUAGE.forEach(consider);
  for (const text of metrics) consider({ text, kind: 'metric' });
  const found = [...starts, ...contains];
  // a word that is complete needs no list
  if (found.length === 1 && found[0]?.text === word) return [];
  return found.slice(0, limit);
}
