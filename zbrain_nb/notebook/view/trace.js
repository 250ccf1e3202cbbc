// A traceback, of IPython or of plain Python, as frames: the cell's own lines open, those of libraries folded.
import { h } from './elements.js';
import { fill, plainText, python } from './text.js';

const IPYTHON = /^ {0,2}(?:(Cell In ?\[\d+\])|File ([^"\s].*?))(?::|, line )(\d+)(?:, in (.+))?$/;
const PLAIN = /^ {0,2}File "(.+)", line (\d+)(?:, in (.+))?$/;
const CODE = /^(-+> ?| *)(\d+) ?(.*)$/;
const INSTALLED = /(?:site|dist)-packages[\\/]([^\\/]+)/;
const STANDARD = /lib[\\/]python[\d.]+[\\/]([^\\/]+)|<(frozen)/;
const NOISE = /^\s*(?:-{20,}|\S+ +Traceback \(most recent call last\)|Traceback \(most recent call last\):)?\s*$/;

/** The parts of a traceback, whatever a job has put in its place. */
const partsOf = (error) => [error?.traceback ?? []].flat().map(String);

/** What to show of `error`: blocks of `{text}`, `{frame}` or `{folded: [frame...]}`. */
export function readTrace(error) {
  const blocks = [];
  let frame = null;
  for (const line of partsOf(error).flatMap((part) => plainText(part).split('\n'))) {
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
    } else if (!NOISE.test(line)) {
      frame = null;
      const last = blocks.at(-1);
      if (last?.text != null) last.text += `\n${line}`;
      else blocks.push({ text: line });
    } else if (!line.trim() && !frame?.plain) frame = null;
  }
  // The last text repeats the exception, which stands above in full.
  if (blocks.at(-1)?.text != null) blocks.pop();
  return blocks;
}

function frameBox(frame, failed) {
  return h(
    'div',
    { class: 'zb-frame', tabindex: 0, role: 'group', 'aria-label': frame.where },
    h('p', {}, frame.where),
    frame.lines.map(([number, code]) => {
      const here = failed && number === frame.at;
      return h(
        'div',
        { 'aria-current': here ? 'true' : null },
        h('span', {}, here ? `\u25b8 ${number}` : number),
        h('code', {}, python(code), here && h('span', { class: 'zb-vh' }, ' (the line that failed)')),
      );
    }),
  );
}
function foldedBox(frames) {
  const names = [...new Set(frames.map((frame) => frame.of))];
  const shown = names.length > 3 ? `${names.slice(0, 3).join(', ')} and others` : names.join(', ');
  const title = `${frames.length === 1 ? '1 frame' : `${frames.length} frames`} in ${shown}`;
  return h(
    'details',
    {},
    h('summary', {}, title),
    frames.map((frame) => frameBox(frame, true)),
  );
}

/** The section of a failed job: what was raised, why in words, and where. */
export function failureSection({ text, reason, error }, budget) {
  const blocks = readTrace(error ?? {});
  const raw = partsOf(error).join('\n');
  const known = blocks.some((block) => block.frame || block.folded);
  return h(
    'div',
    { class: 'zb-sec' },
    h('p', { class: 'zb-exc' }, text),
    reason && h('p', { class: 'zb-why' }, reason),
    known
      ? h(
          'div',
          { class: 'zb-trace' },
          blocks.map((block) =>
            block.frame
              ? frameBox(block.frame, true)
              : block.folded
                ? foldedBox(block.folded)
                : h('p', { class: 'zb-raw' }, block.text),
          ),
        )
      : plainText(raw).trim() && plainText(raw).trim() !== text
        ? h(
            'div',
            { class: 'zb-frame', tabindex: 0, role: 'group', 'aria-label': 'Traceback' },
            fill(h('p', { class: 'zb-raw' }), raw, budget),
          )
        : null,
  );
}
