// What a job runs, to be read: the cell with its line numbers, the words of a command, or which function.
import { copyButton, fillBy, h } from '../elements.js';
import { newBudget, python, rowOf, visible } from '../text.js';

const MOST_ROWS = 1_000; // at first, and so many more at a time

export function codeSection(spec) {
  const { code, cmd } = spec;
  if (code != null) return section('The cell', code, code.split('\n'), 1, python);
  if (cmd) return section('The command, word by word', cmd.join(' '), cmd, 0);
  return h('div', { class: 'zb-sec' }, h('p', { class: 'zb-mute' }, 'A function, shipped as a pickle; the console does not open it.'));
}
function section(title, text, rows, first, draw) {
  let budget;
  const numbered = (row, i) => {
    if (i % MOST_ROWS === 0) budget = newBudget();
    return h('div', {}, h('i', {}, first + i), h('code', {}, rowOf(visible(row), budget, draw)));
  };
  return h(
    'div',
    { class: 'zb-sec' },
    h('div', { class: 'zb-h zb-codehead' }, title, copyButton(text, 'Copy', 'copy')),
    fillBy(MOST_ROWS, h('div', { class: 'zb-src', tabindex: 0, role: 'group', 'aria-label': title }), rows, numbered),
  );
}
