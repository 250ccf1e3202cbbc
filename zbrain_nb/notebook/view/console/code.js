// What a job runs, to be read: the cell with its line numbers, the words of a command, or which function.
import { copyButton, h } from '../elements.js';
import { python, visibleName } from '../text.js';

const MAX_LINES = 20_000;

export function codeSection(spec) {
  const { code, cmd } = spec;
  if (code != null) {
    const lines = code.split('\n').slice(0, MAX_LINES);
    return section('The cell', code, lines.map((line, i) => numbered(i + 1, python(visibleName(line)))));
  }
  if (cmd) return section('The command, word by word', cmd.join(' '), cmd.map((word, i) => numbered(i, visibleName(word))));
  return h('div', { class: 'zb-sec' }, h('p', { class: 'zb-mute' }, 'A function, shipped as a pickle; the console does not open it.'));
}
const section = (title, text, rows) =>
  h(
    'div',
    { class: 'zb-sec' },
    h('div', { class: 'zb-h zb-codehead' }, title, copyButton(text, 'Copy', 'copy')),
    h('div', { class: 'zb-src', tabindex: 0, role: 'group', 'aria-label': title }, rows),
  );
const numbered = (number, kids) => h('div', {}, h('i', {}, number), h('code', {}, kids));
