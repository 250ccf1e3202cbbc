// Small charts of numbers a minute: bars, and lines. Each says in its label what it shows.
import { s } from '../elements.js';

const WIDTH = 240;
const HEIGHT = 56;
const HEAD = 4; // px kept free above the highest value

const frame = (label, kids) =>
  s(
    'svg',
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label },
    s('path', { class: 'zb-base', d: `M0 ${HEIGHT - 0.5}H${WIDTH}` }),
    kids,
  );

/** A bar for each value; `bad` is the part of it that went wrong, `titles` what each says when pointed at. */
export function bars(label, values, bad, titles) {
  const top = Math.max(1, ...values) * 1.08;
  const width = WIDTH / values.length;
  const heightOf = (value) => (value / top) * (HEIGHT - HEAD);
  return frame(
    label,
    values.map((value, i) => {
      const at = i * width + 0.5;
      const part = (kind, of) =>
        of > 0 &&
        s('rect', { class: kind, x: at, y: HEIGHT - 1 - heightOf(of), width: Math.max(1, width - 1.5), height: heightOf(of) });
      return s('g', {}, s('title', {}, titles[i]), part('zb-all', value), part('zb-bad', bad[i]));
    }),
  );
}

/** Two lines over the same minutes; where a value is null the line has a gap. */
export function lines(label, lower, upper) {
  const top = Math.max(0.1, ...upper.filter((value) => value != null)) * 1.08;
  const path = (kind, values) => {
    let pen = 'M';
    let d = '';
    values.forEach((value, i) => {
      if (value == null) {
        pen = 'M';
        return;
      }
      const x = (i / Math.max(1, values.length - 1)) * WIDTH;
      const y = HEIGHT - 1 - (value / top) * (HEIGHT - HEAD);
      // A minute between two gaps is a short stroke, or it would not be seen.
      const alone = pen === 'M' && values[i + 1] == null;
      d += `${pen}${(alone ? x - 2 : x).toFixed(1)} ${y.toFixed(1)}${alone ? 'h4' : ''}`;
      pen = 'L';
    });
    return s('path', { class: kind, d });
  };
  return frame(label, [path('zb-upper', upper), path('zb-lower', lower)]);
}
