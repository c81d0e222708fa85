/** One character of a name. */
type One = (char: string) => boolean;

/**
 * Whether a name matches a part of a pattern (glob(7)). In a time of the product of both lengths at the most, whatever the pattern: it is an
 * image's, and a regular expression made of it may take for ever.
 */
export function globMatcher(part: string): (name: string) => boolean {
  const steps: (One | '*')[] = [];
  for (let at = 0; at < part.length; at++) {
    const char = part[at]!;
    const end = char === '[' ? part.indexOf(']', at + 2) : -1;
    if (char === '*') steps.push('*');
    else if (char === '?') steps.push(() => true);
    else if (end < 0) steps.push((c) => c === char);
    else {
      steps.push(charactersOf(part.slice(at + 1, end)));
      at = end;
    }
  }
  return (name) => {
    let [step, star, from] = [0, -1, 0];
    for (let at = 0; at < name.length; ) {
      const wanted = steps[step];
      if (wanted === '*') {
        star = step++;
        from = at;
      } else if (wanted?.(name[at]!)) {
        step++;
        at++;
      } else if (star >= 0) {
        step = star + 1; // the star takes one more
        at = ++from;
      } else return false;
    }
    while (steps[step] === '*') step++;
    return step === steps.length;
  };
}

/** "a-z_", "!0-9". */
function charactersOf(list: string): One {
  const negated = /^[!^]/.test(list);
  const items = [...(negated ? list.slice(1) : list).matchAll(/(.)-(.)|./gs)];
  return (char) =>
    items.some(([one, from, to]) => (from === undefined ? char === one : char >= from && char <= to!)) !== negated;
}
