// Numbers and moments as people read them.

export function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let place = 0;
  let value = bytes;
  while (value >= 1000 && place < units.length - 1) { value /= 1000; place += 1; }
  return `${place && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[place]}`;
}

export function seconds(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 120) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  return `${Math.round(value / 60)} min`;
}

export const count = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));
export const share = (value) => (value === null || value === undefined || Number.isNaN(value) ? "–" : `${(100 * value).toFixed(1)} %`);
export const figure = (value, digits = 4) => (value === null || value === undefined ? "–" : value.toFixed(digits));
export const moment = (epoch) => (epoch ? new Date(epoch * 1000).toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" }) : "–");
export const short = (digest) => (digest ? digest.slice(0, 12) : "–");
