// A traceback, of IPython or of plain Python, as frames: the cell's own lines open, those of libraries folded.
import { h } from './elements.js';
import { cut, fill, newBudget, plainText, python, rowOf } from './text.js';

const IPYTHON = /^ {0,2}(?:(Cell In ?\[\d+\])|File ([^"\s].*?))(?::|, line )(\d+)(?:, in (.+))?$/;
const PLAIN = /^ {0,2}File "(.+)", line (\d+)(?:, in (.+))?$/;
const CODE = /^(-*> ?| *)(\d+) ?(.*)$/; // the higher the number, the shorter the arrow
const INSTALLED = /(?:site|dist)-packages[\\/]([^\\/]+)/;
const STANDARD = /lib[\\/]python[\d.]+[\\/]([^\\/]+)|<(frozen)/;
const NOISE = /^(?:-{20,}|\S+ +Traceback \(most recent call last\)|Traceback \(most recent call last\):)?$/; // of what is trimmed

/** The parts of a traceback, whatever a job has put in its place. */
const partsOf = (error) => [error?.traceback ?? []].flat().map(String);

/** What to show of the lines of a traceback: blocks of `{text}`, `{frame}` or `{folded: [frame...]}`. */
function readTrace(lines) {
  const blocks = [];
  let frame = null;
  for (const line of lines) {
    const head = IPYTHON.exec(line) ?? PLAIN.exec(line);
    const code = CODE.exec(line);
    if (head) {
      const ipython = head.length === 5;
      const file = ipython ? (head[1] ?? head[2]) : head[1];
      const cell = ipython ? Boolean(head[1]) : /^<(?:cell|ipython|zbrain|string)|^cell\b|ipykernel_/.test(file);
      const at = Number(ipython ? head[3] : head[2]);
      const inside = ipython ? head[4] : head[3];
      const place = inside && inside !== '<module>' ? `, in ${inside}` : '';
      const library = cell ? null : (INSTALLED.exec(file) ?? STANDARD.exec(file));
      frame = {
        where: `${cell ? 'This cell' : file}, line ${at}${place}`,
        of: library && (library[1] ?? library[2]).replace(/\.py$/, ''),
        at,
        plain: !ipython,
        lines: [],
      };
      const last = blocks.at(-1);
      if (!frame.of) blocks.push({ frame });
      else if (last?.folded) last.folded.push(frame);
      else blocks.push({ folded: [frame] });
    } else if (frame && code && !frame.plain) frame.lines.push([Number(code[2]), code[3]]);
    else if (frame && /^ {4}/.test(line)) {
      const first = frame.lines.length === 0;
      frame.lines.push([first ? frame.at : '', line.slice(4)]);
    } else if (!NOISE.test(line.trim())) {
      frame = null;
      const last = blocks.at(-1);
      if (last?.text != null) last.text += `\n${line}`;
      else blocks.push({ text: line });
    } else if (!line.trim() && !frame?.plain) frame = null;
  }
  return blocks;
}

function frameBox(frame, budget) {
  return h(
    'div',
    { class: 'zb-frame', tabindex: 0, role: 'group', 'aria-label': cut(frame.where) },
    h('p', {}, rowOf(frame.where, budget)),
    frame.lines.map(([number, code]) => {
      const here = number === frame.at;
      return h(
        'div',
        { 'aria-current': here ? 'true' : null },
        h('span', {}, here ? `\u25b8 ${number}` : number),
        h('code', {}, rowOf(code, budget, python), here && h('span', { class: 'zb-vh' }, ' (the line that failed)')),
      );
    }),
  );
}
function foldedBox(frames, budget) {
  const names = [...new Set(frames.map((frame) => frame.of))];
  const shown = names.length > 3 ? `${names.slice(0, 3).join(', ')} and others` : names.join(', ');
  const title = `${frames.length === 1 ? '1 frame' : `${frames.length} frames`} in ${shown}`;
  return h(
    'details',
    {},
    h('summary', {}, cut(title)),
    frames.map((frame) => frameBox(frame, budget)),
  );
}

/** The section of a failed job: what was raised, why in words, and where. */
export function failureSection({ text, reason, error }, budget = newBudget()) {
  return h(
    'div',
    { class: 'zb-sec' },
    fill(h('p', { class: 'zb-exc' }), text, budget),
    reason && fill(h('p', { class: 'zb-why' }), reason, budget),
    traceBox(error, text, budget),
  );
}
function traceBox(error, text, budget) {
  const parts = partsOf(error);
  const lines = parts.flatMap((part) => plainText(part).split('\n'));
  const rows = lines.splice(0, budget.lines);
  const blocks = readTrace(rows);
  const raw = (source) => fill(h('p', { class: 'zb-raw' }), source, budget);
  if (blocks.some((block) => block.frame || block.folded)) {
    // The last text repeats the exception, which stands above in full.
    if (!lines.length && blocks.at(-1).text != null) blocks.pop();
    return h(
      'div',
      { class: 'zb-trace' },
      blocks.map((block) =>
        block.frame ? frameBox(block.frame, budget) : block.folded ? foldedBox(block.folded, budget) : raw(block.text),
      ),
      lines.length > 0 && raw(lines.join('\n')),
    );
  }
  const plain = [...rows, ...lines].join('\n').trim();
  if (!plain || plain === text) return null;
  return h('div', { class: 'zb-frame', tabindex: 0, role: 'group', 'aria-label': 'Traceback' }, raw(parts.join('\n')));
}
