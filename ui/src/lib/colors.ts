// Colours of lines: told apart on light and on dark ground, also by most colour-blind eyes.

const HUES = [
  ['#0f6f8c', '#4fb6d3'],
  ['#d1602a', '#f0935f'],
  ['#4c8a2b', '#8cc265'],
  ['#8f4fb0', '#c48fe0'],
  ['#b8323f', '#ef7d86'],
  ['#a67c00', '#e0b93f'],
  ['#3c5fc4', '#8ba6f5'],
  ['#0b8a6f', '#45c9aa'],
  ['#c0428c', '#ee86c1'],
  ['#6b6f76', '#a9afb8'],
] as const;

/** The colour of line `at`. */
export function lineColor(at: number, dark: boolean): string {
  return HUES[at % HUES.length]?.[dark ? 1 : 0] ?? '#888';
}
