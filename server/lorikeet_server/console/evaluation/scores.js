// From answers to numbers, as `lorikeet eval` counts them. No page in here.

const MOST_LABELS = 20;

export const isRight = ({ answer, expected }) => answer.trim() === expected.trim();

// An object or an array: a bare number or word parses, too, but nobody means JSON by it.
export function isJson(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object";
  } catch {
    return false;
  }
}

const shareOf = (list, is) => list.filter(is).length / list.length;

// Shares are from 0 to 1; `json` is null unless every expected answer is JSON. `judged` are {expected, answer, stopped, failed}.
export function scoresOf(judged) {
  const wantsJson = judged.every((each) => isJson(each.expected));
  return {
    rows: judged.length,
    exact: shareOf(judged, isRight),
    json: wantsJson ? shareOf(judged, (each) => isJson(each.answer)) : null,
    stopped: shareOf(judged, (each) => each.stopped),
    failed: judged.filter((each) => each.failed).length,
  };
}

// The few distinct answers that rows expect, in their order; null where they are no labels: too many, or hardly one twice.
export function labelsOf(expected) {
  const distinct = [...new Set(expected.map((each) => each.trim()))].sort();
  const few = distinct.length > 1 && distinct.length <= MOST_LABELS && 2 * distinct.length <= expected.length;
  return few ? distinct : null;
}

// `pairs` are [what it is, what it was taken for]. `table[i][j]` counts the rows of label i that were taken for label j;
// its last column those that were taken for none. A share of nothing is 0; `macro` is the mean over labels, each counting the same.
export function labelScores(labels, pairs) {
  const place = new Map(labels.map((label, at) => [label, at]));
  const table = labels.map(() => Array(labels.length + 1).fill(0));
  for (const [actual, taken] of pairs) table[place.get(actual)][place.get(taken) ?? labels.length] += 1;
  const classes = labels.map((label, at) => {
    const support = table[at].reduce(add, 0);
    return { label, support, ...rates(table[at][at], table.reduce((all, row) => all + row[at], 0), support) };
  });
  const mean = (key) => classes.reduce((all, each) => all + each[key], 0) / classes.length;
  return {
    accuracy: labels.reduce((all, _, at) => all + table[at][at], 0) / pairs.length,
    macro: { precision: mean("precision"), recall: mean("recall"), f1: mean("f1") },
    classes,
    table,
  };
}

const add = (left, right) => left + right;

const rates = (right, taken, support) => ({
  precision: taken ? right / taken : 0,
  recall: support ? right / support : 0,
  f1: taken + support ? (2 * right) / (taken + support) : 0,
});
