// The last ten minutes of scrapes, and what can be said of a stretch of them: increases, rates, percentiles, shares.
// A scrape is {at, by}: when, in seconds, and its samples by their names. A ring is an array of them, the newest last.

export const SPAN_S = 600;
export const EVERY_S = 2;
const MOST = SPAN_S / EVERY_S + 1;

export function scrapeOf(samples, at) {
  const by = new Map();
  for (const sample of samples) {
    if (!by.has(sample.name)) by.set(sample.name, []);
    by.get(sample.name).push(sample);
  }
  return { at, by };
}

// The ring with one more; what is too old is gone. Where the clock was set back, what is later than now is, too.
export function push(ring, scrape) {
  const kept = ring.filter((each) => each.at < scrape.at && each.at >= scrape.at - SPAN_S);
  return [...kept, scrape].slice(-MOST);
}

// The scrapes of the last `seconds`, and the one before them that their increase is counted from.
export function last(ring, seconds) {
  if (!ring.length) return [];
  const begin = ring.at(-1).at - seconds;
  const first = ring.findIndex((each) => each.at >= begin);
  return ring.slice(ring[first].at > begin && first > 0 && ring[first - 1].at >= begin - EVERY_S ? first - 1 : first);
}

export const elapsed = (ring) => (ring.length < 2 ? 0 : ring.at(-1).at - ring[0].at);

// The sum of a metric's samples that `where` accepts; null where there are none.
export function value(scrape, name, where = () => true) {
  const found = (scrape?.by.get(name) ?? []).filter((each) => where(each.labels));
  return found.length ? found.reduce((sum, each) => sum + each.value, 0) : null;
}

// Map of `key(labels)` to how much a counter grew over the ring. One that fell was reset and counts from zero; one that is
// new does, too, for the server names it at its first event. Null where the metric is in no scrape, or there is but one.
export function increases(ring, name, key) {
  if (ring.length < 2 || !ring.some((each) => each.by.has(name))) return null;
  const grown = new Map();
  for (let place = 1; place < ring.length; place += 1) {
    const before = new Map((ring[place - 1].by.get(name) ?? []).map((each) => [seriesOf(each.labels), each.value]));
    for (const { labels, value: now } of ring[place].by.get(name) ?? []) {
      const then = before.get(seriesOf(labels)) ?? 0;
      const group = key(labels);
      grown.set(group, (grown.get(group) ?? 0) + (now < then ? now : now - then));
    }
  }
  return grown;
}

const seriesOf = (labels) => JSON.stringify(Object.entries(labels).sort(([left], [right]) => (left < right ? -1 : 1)));

export function increase(ring, name, where = () => true) {
  const grown = increases(ring, name, where);
  return grown && (grown.get(true) ?? 0);
}

// A second; null where there is nothing to tell it from.
export function rate(ring, name, where = () => true) {
  const grown = increase(ring, name, where);
  return grown === null || !elapsed(ring) ? null : grown / elapsed(ring);
}

// A histogram's increase as [upper bound, cumulative count], the bounds rising.
export function buckets(ring, name, where = () => true) {
  const grown = increases(ring, `${name}_bucket`, (labels) => (where(labels) ? boundOf(labels.le) : null));
  return grown && [...grown].filter(([bound]) => bound !== null).sort(([left], [right]) => left - right);
}

const boundOf = (text) => (text === "+Inf" ? Infinity : Number(text));

// As Prometheus' histogram_quantile: linear inside a bucket, the lowest beginning at 0, and where the share lies beyond the
// last finite bound, that bound. Null where nothing was observed.
export function quantile(share, found) {
  const total = found?.at(-1)?.[1] ?? 0;
  if (!(total > 0) || found.length < 2) return null;
  const rank = share * total;
  const place = found.findIndex(([, count]) => count >= rank);
  const [upper, count] = found[place];
  if (place === found.length - 1) return found[place - 1][0];
  if (place === 0 && upper <= 0) return upper;
  const [lower, below] = place ? found[place - 1] : [0, 0];
  return count === below ? upper : lower + (upper - lower) * ((rank - below) / (count - below));
}

// [key, amount, share of all] by a label, the most first; what did not grow is left out. A counter kept for a bounded number
// of names moves what a name had to `rest` when it gives the name up: that is no growth.
export function shares(ring, name, label, { where = () => true, rest } = {}) {
  const grown = increases(ring, name, (labels) => (where(labels) ? labels[label] : null));
  if (!grown) return [];
  grown.delete(null);
  if (rest !== undefined && grown.has(rest)) grown.set(rest, Math.max(0, grown.get(rest) - given(ring, name, label, where)));
  const found = [...grown].filter(([, amount]) => amount > 0);
  const all = found.reduce((sum, [, amount]) => sum + amount, 0);
  return found.map(([key, amount]) => [key, amount, amount / all]).sort((left, right) => right[1] - left[1]);
}

// What names had that were in one scrape and not in the next.
function given(ring, name, label, where) {
  let sum = 0;
  for (let place = 1; place < ring.length; place += 1) {
    const left = new Set((ring[place].by.get(name) ?? []).map((each) => each.labels[label]));
    for (const each of ring[place - 1].by.get(name) ?? []) if (where(each.labels) && !left.has(each.labels[label])) sum += each.value;
  }
  return sum;
}
