// The table of jobs: only the rows in sight are in the page, so that ten thousand cost as much as thirty.
// `jobsTable(options) -> {el, show(items), move(by), ...}`; which items it shows, and in which order, it is told.
import { STATE_WORDS, h, progressBar, stateMark, timeOfDay, twist, watchSize } from '../elements.js';
import { visibleName } from '../text.js';
import { notebookOf } from '../words.js';
import { elapsedText, fractionOf, reasonOf, whereOf } from './rows.js';

const ROW = 32; // px, as in dashboard.css; the head of the table too
const TALL_ROW = 54; // in two lines
const NARROW = 720; // px
const MIDDLE = 1080; // px: under it the optional columns go
const SPARE = 8; // rows above and below those in sight
export const COLUMNS = [
  ['state', 'State'],
  ['name', 'Name'],
  ['owner', 'Owner'],
  ['notebook', 'Notebook', 'zb-opt'],
  ['progress', 'Progress'],
  ['elapsed', 'Elapsed', 'zb-num'],
  ['where', 'Where'],
  ['created', 'Submitted', 'zb-opt'],
  ['reason', 'Reason'],
];
const OPTIONAL = COLUMNS.filter(([, , kind]) => kind === 'zb-opt').length;

export function jobsTable({ jobUrl, target, chosen, onSort, onChoose, onChooseAll, onFold, now }) {
  let items = [];
  let frame = 0;
  let active = null; // the key of the row that the keyboard is at
  let wantsFocus = false;
  const shown = new Map(); // by key: {tr, patch}

  const all = h('input', { type: 'checkbox', 'aria-label': 'Select all shown', onchange: () => onChooseAll(all.checked) });
  const heads = COLUMNS.map(([key, label, kind]) =>
    h('th', { scope: 'col', class: kind, 'data-c': key }, h('button', { type: 'button', onclick: () => onSort(key) }, label)),
  );
  const above = h('tr', { 'aria-hidden': 'true', class: 'zb-space' }, h('td'));
  const below = h('tr', { 'aria-hidden': 'true', class: 'zb-space' }, h('td'));
  const body = h('tbody', {}, above, below);
  const table = h(
    'table',
    { class: 'zb-jobs', 'aria-label': 'Jobs' },
    h('thead', {}, h('tr', { 'aria-rowindex': 1 }, h('th', { scope: 'col', 'data-c': 'sel' }, all), heads)),
    body,
  );
  const el = h('div', { class: 'zb-jobsbox', onscroll: schedule }, table);
  const size = watchSize(el, schedule);

  const keyOf = (item) => (item.group == null ? item.id : `group ${item.group}`);
  const rowHeight = () => (el.clientWidth <= NARROW ? TALL_ROW : ROW);

  function jobRow(row) {
    const name = visibleName(row.name);
    const box = h('input', { type: 'checkbox', 'aria-label': `Select ${name}`, onchange: () => onChoose([row], box.checked) });
    const cell = Object.fromEntries(COLUMNS.map(([key, , kind]) => [key, h('td', { 'data-c': key, class: kind })]));
    for (const key of ['owner', 'notebook', 'where', 'created', 'reason']) cell[key].classList.add('zb-s');
    const link = h('a', { target, tabindex: 0, title: name, onfocus: () => (active = row.id) }, h('bdi', {}, name));
    cell.name.append(link);
    cell.owner.textContent = row.owner;
    const notebook = visibleName(notebookOf(row));
    cell.notebook.textContent = notebook.split('/').at(-1);
    cell.notebook.title = notebook;
    cell.created.textContent = timeOfDay(Date.parse(row.created_at));
    const tr = h('tr', {}, h('td', { 'data-c': 'sel' }, box), Object.values(cell));
    let state = null;
    let bar = null;
    let percent = null;
    return {
      tr,
      patch(row, time) {
        const url = jobUrl?.(row.id); // only known once the server is
        if (url && !link.href) link.href = url;
        if (state !== row.state) {
          state = row.state;
          tr.dataset.state = state;
          cell.state.replaceChildren(stateMark(state, STATE_WORDS[state]));
          cell.reason.classList.toggle('zb-badtext', state === 'failed');
        }
        const done = fractionOf(row);
        if ((done == null) !== (bar == null)) {
          bar = done == null ? null : progressBar(`Progress of ${name}`);
          percent = done == null ? null : h('span', { class: 'zb-pct' });
          cell.progress.replaceChildren(...(bar ? [h('span', { class: 'zb-prog', 'data-state': 'running' }, bar, percent)] : []));
        }
        if (bar) {
          const value = Math.round(done * 100);
          bar.firstChild.style.setProperty('--p', done);
          bar.setAttribute('aria-valuenow', value);
          setText(percent, `${value}%`);
        }
        setText(cell.elapsed, elapsedText(row, time));
        const where = visibleName(whereOf(row));
        cell.where.title = where;
        setText(cell.where, where);
        const why = visibleName(reasonOf(row));
        if (cell.reason.title !== why) {
          cell.reason.title = why;
          setText(cell.reason, why);
        }
        const on = chosen.has(row.id);
        box.checked = on;
        tr.setAttribute('aria-selected', on);
      },
    };
  }

  function groupRow(item) {
    const key = keyOf(item);
    const name = visibleName(item.group);
    const box = h('input', { type: 'checkbox', 'aria-label': `Select all of ${name}`, onchange: () => onChoose(last.rows, box.checked) });
    const fold = twist(false, name, null, () => onFold(item.group));
    fold.addEventListener('focus', () => (active = key));
    const counts = h('span', { class: 'zb-mute' });
    const wide = h('td', { 'data-c': 'group' }, h('div', {}, fold, h('b', { class: 'zb-cut', title: name }, h('bdi', {}, name)), counts));
    const tr = h('tr', { class: 'zb-grouprow' }, h('td', { 'data-c': 'sel' }, box), wide);
    let last = item;
    return {
      tr,
      patch(now_) {
        last = now_;
        wide.colSpan = COLUMNS.length - (el.offsetWidth <= MIDDLE ? OPTIONAL : 0);
        fold.setAttribute('aria-expanded', now_.open);
        const found = new Map();
        for (const { state } of now_.rows) found.set(state, (found.get(state) ?? 0) + 1);
        const parts = Object.keys(STATE_WORDS).filter((state) => found.has(state));
        setText(counts, parts.map((state) => `${found.get(state).toLocaleString('en')} ${state}`).join(', '));
        const picked = now_.rows.filter(({ id }) => chosen.has(id)).length;
        box.checked = picked > 0 && picked === now_.rows.length;
        box.indeterminate = picked > 0 && !box.checked;
      },
    };
  }
  function setText(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }

  function paint() {
    frame = 0;
    if (!size.isRendered()) return;
    const height = rowHeight();
    const top = Math.max(0, el.scrollTop - ROW);
    const from = Math.max(0, Math.min(items.length, Math.floor(top / height) - SPARE));
    const to = Math.min(items.length, Math.ceil((top + el.clientHeight) / height) + SPARE);
    const time = now();
    const wanted = new Map(items.slice(from, to).map((item, i) => [keyOf(item), [item, from + i]]));
    const held = body.contains(document.activeElement);
    for (const [key, { tr }] of shown) {
      if (wanted.has(key)) continue;
      tr.remove();
      shown.delete(key);
    }
    let next = above.nextSibling;
    for (const [key, [item, index]] of wanted) {
      let row = shown.get(key);
      if (!row) shown.set(key, (row = item.group == null ? jobRow(item) : groupRow(item)));
      row.patch(item, time);
      if (row.index !== index) row.tr.setAttribute('aria-rowindex', (row.index = index) + 2);
      if (row.tr === next) next = next.nextSibling;
      else body.insertBefore(row.tr, next);
    }
    above.style.height = `${from * height}px`;
    above.hidden = !from;
    below.style.height = `${(items.length - to) * height}px`;
    below.hidden = to === items.length;
    if (wantsFocus || (held && !body.contains(document.activeElement))) focusActive();
  }
  function focusActive() {
    wantsFocus = false;
    shown.get(active)?.tr.querySelector('a, .zb-twist')?.focus({ preventScroll: true });
  }
  function schedule() {
    frame ||= requestAnimationFrame(paint);
  }

  return {
    el,
    /** Show these: rows, and groups with their `rows` and whether they are `open`. */
    show(list, { sort, allChosen, someChosen }) {
      items = list;
      table.setAttribute('aria-rowcount', list.length + 1);
      all.checked = allChosen;
      all.indeterminate = someChosen && !allChosen;
      for (const head of heads) {
        const way = head.dataset.c !== sort[0] ? 'none' : sort[1] < 0 ? 'descending' : 'ascending';
        head.setAttribute('aria-sort', way);
      }
      schedule();
    },
    /** Go up or down by rows, with the keyboard's focus. */
    move(by) {
      if (!items.length) return;
      const index = items.findIndex((item) => keyOf(item) === active);
      const to = index < 0 ? 0 : Math.max(0, Math.min(items.length - 1, index + by));
      active = keyOf(items[to]);
      const height = rowHeight();
      const top = to * height;
      if (top < el.scrollTop) el.scrollTop = top;
      else if (top + height + ROW > el.scrollTop + el.clientHeight) el.scrollTop = top + height + ROW - el.clientHeight;
      wantsFocus = true;
      schedule();
    },
    /** The row or group that the keyboard is at. */
    get active() {
      return items.find((item) => keyOf(item) === active) ?? null;
    },
    schedule,
    dispose() {
      size.stop();
      cancelAnimationFrame(frame);
      frame = -1;
    },
  };
}
