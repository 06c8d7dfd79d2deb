// Which tokens of one answer are not in another, by the longest sequence that both have.

const MOST = 1500; // tokens of each; the table is their product

// For each text of `mine` whether it stands in the common part; null where the answers are too long to tell.
export function shared(mine, theirs) {
  if (mine.length > MOST || theirs.length > MOST) return null;
  const width = theirs.length + 1;
  const length = new Uint16Array((mine.length + 1) * width);
  for (let i = mine.length - 1; i >= 0; i -= 1) {
    for (let j = theirs.length - 1; j >= 0; j -= 1) {
      length[i * width + j] = mine[i] === theirs[j]
        ? length[(i + 1) * width + j + 1] + 1
        : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
    }
  }
  const found = new Array(mine.length).fill(false);
  for (let i = 0, j = 0; i < mine.length && j < theirs.length;) {
    if (mine[i] === theirs[j]) { found[i] = true; i += 1; j += 1; }
    else if (length[(i + 1) * width + j] >= length[i * width + j + 1]) i += 1;
    else j += 1;
  }
  return found;
}
