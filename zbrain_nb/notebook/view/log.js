// The log of a job: only the rows in sight are in the page, so that its length costs nothing. It paints at most
// once a frame, follows its tail until one scrolls up, and searches lines that are not loaded too.
import { button, h, icon, iconButton, newId, plural, timeOfDay, toClipboard, twist, watchSize } from './elements.js';
import { isMark } from './lines.js';
import { LogSearch } from './search.js';
import { ansi, plainText, visibleName } from './text.js';
import { hasValue } from './words.js';

const ROW = 18; // px, as in zbrain.css
const SPARE = 16; // rows above and below those in sight
const MAX_HEIGHT = 15_000_000; // px; browsers draw nothing beyond some 17 million
const REST_MS = 60;
const NEAR_END = 8; // px
const SHORT = 20; // lines; so many never fold by themselves, as in summary.js

/** @param {boolean} page whether it is a page of its own: it never folds, and each line says when it came */
export function logPane(feed, { page = false } = {}) {
  const store = feed.log;
  const listId = newId('log');
  const shown = new Map();
  const search = new LogSearch(store, goTo, schedule);
  let folded = null; // the reader's own choice, if any
  let foldByState = false;
  let only = false;
  let stick = true;
  let noError = false; // it was looked for, in vain
  let tall = false;
  let at = 0; // how far down the log the reader is, in px of its full height
  let anchor = null; // a line in sight, and the row it stood in when `at` was taken
  let lastTop = 0;
  let lastHeight = 0; // of the list
  let frame = 0;
  let resting = null;

  const rows = h('div', { class: 'zb-rows' });
  const canvas = h('div', { class: 'zb-canvas' }, rows);
  const list = h(
    'div',
    {
      id: listId,
      class: 'zb-lines',
      role: 'log',
      'aria-live': 'off',
      tabindex: 0,
      'aria-label': `Log of ${visibleName(feed.job.name)}`,
    },
    canvas,
  );
  const count = h('span', { class: 'zb-mute' });
  const find = h('input', {
    class: 'zb-input',
    type: 'search',
    placeholder: 'Find in log',
    'aria-label': 'Find in log',
    oninput: () => {
      restart();
      bringIntoSight();
    },
    onkeydown: (event) => {
      if (event.key === 'Enter') {
        search.step(event.shiftKey ? -1 : 1);
        bringIntoSight(search.hit);
      } else if (event.key === 'Escape' && find.value) {
        find.value = '';
        restart();
      } else return;
      event.preventDefault();
      event.stopPropagation();
    },
  });
  const onlyButton = button('stderr only', {
    class: 'zb-wide',
    'aria-pressed': false,
    onclick: () => {
      only = !only;
      onlyButton.setAttribute('aria-pressed', only);
      restart();
    },
  });
  const markButton = button('First error', {
    onclick: () =>
      withLines(async () => {
        const seq = await store.firstError();
        noError = seq == null;
        if (noError) return;
        goTo(seq);
        bringIntoSight(seq);
      }),
  });
  const followButton = button('Follow', {
    'aria-pressed': true,
    title: 'Stay at the newest line',
    onclick: () => {
      stick = !stick;
      paint();
      if (stick) bringIntoSight(store.end - 1);
    },
  });
  const tallButton = iconButton('Show more lines at once', 'tall', {
    'aria-pressed': false,
    onclick: () => {
      tall = !tall;
      list.classList.toggle('zb-tall', tall);
      tallButton.setAttribute('aria-pressed', tall);
      schedule();
    },
  });
  const copyAll = iconButton('Copy the whole log', 'copy', {
    onclick: () =>
      withLines(async () => {
        if (!(await toClipboard(await wholeText()))) return void (count.textContent = 'The browser refused; download it');
        copyAll.replaceChildren(icon('check'));
        setTimeout(() => copyAll.replaceChildren(icon('copy')), 1500);
      }),
  });
  const download = iconButton('Download the whole log', 'down', {
    onclick: () =>
      withLines(async () => {
        const url = URL.createObjectURL(new Blob([await wholeText()], { type: 'text/plain' }));
        h('a', { href: url, download: `${feed.job.name.replace(/[^\w.-]+/g, '_')}.log` }).click();
        setTimeout(() => URL.revokeObjectURL(url), 10_000);
      }),
  });
  /** Do what needs lines that may have to be fetched; say so if they cannot be. */
  async function withLines(act) {
    feed.problem = null;
    try {
      await act();
    } catch (error) {
      feed.problem = `The log could not be read: ${error.message}`;
    }
    feed.tell();
  }
  const tools = h(
    'span',
    { class: 'zb-tools' },
    find,
    onlyButton,
    markButton,
    followButton,
    tallButton,
    copyAll,
    download,
  );
  const box = h('div', {}, list);
  const fold = twist(true, 'Log', listId, () => {
    folded = !isFolded();
    schedule();
  });
  const el = h(
    'div',
    { class: 'zb-log' },
    h(
      'div',
      { class: 'zb-logbar' },
      fold,
      h('div', { class: 'zb-h' }, 'Log', count),
      h('span', { class: 'zb-gap' }),
      tools,
    ),
    box,
  );

  const isFolded = () => !page && (folded ?? foldByState);
  const rulesNow = () => (only ? [] : store.rules.filter(([seq]) => seq >= store.begin));
  const total = () => (only ? search.stderr.length : store.end - store.begin + rulesNow().length);
  /** Pixels of the log for one of the scroll bar: more than one once the log is higher than an element can be. */
  function scale() {
    const hidden = total() * ROW - list.clientHeight;
    return hidden > 0 ? hidden / (Math.min(total() * ROW, MAX_HEIGHT) - list.clientHeight) : 1;
  }

  /** What stands in row `index`: a seq, or the attempt that a rule announces. */
  function rowAt(index, rules) {
    if (only) return { seq: search.stderr[index] };
    let above = 0;
    for (const [seq, attempt] of rules) {
      const place = seq - store.begin + above;
      if (place === index) return { attempt };
      if (place > index) break;
      above += 1;
    }
    return { seq: store.begin + index - above };
  }
  function rowOf(seq) {
    if (only) return search.stderr.indexOf(seq);
    return seq - store.begin + rulesNow().filter(([place]) => place <= seq).length;
  }

  /** The anchor, while it is in sight; then the first line that is. */
  function anchorAmong(rules) {
    const row = anchor ? rowOf(anchor.seq) : -1;
    if (row * ROW >= at && (row + 1) * ROW <= at + list.clientHeight) return { seq: anchor.seq, row };
    for (let index = Math.ceil(at / ROW); index < total(); index += 1) {
      const { seq } = rowAt(index, rules);
      if (seq != null) return { seq, row: index };
    }
    return null;
  }

  function rowElement({ seq, attempt }) {
    if (attempt != null) return h('div', { class: 'zb-row zb-rule' }, `Attempt ${attempt}`);
    const entry = store.get(seq);
    const number = h('span', { class: 'zb-no' }, (seq + 1).toLocaleString('en'));
    if (!entry)
      return h(
        'div',
        { class: 'zb-row' },
        number,
        h('span', { class: 'zb-std' }),
        h('span', { class: 'zb-mute' }, '\u2026'),
      );
    number.title = timeOfDay(entry.ts * 1000);
    return h(
      'div',
      {
        class: 'zb-row',
        'data-stream': entry.stream,
        'data-mark': isMark(entry) ? 'true' : null,
        'data-hit': search.hit === seq ? 'true' : null,
      },
      number,
      page && h('span', { class: 'zb-ts' }, timeOfDay(entry.ts * 1000)),
      h('span', { class: 'zb-std' }, { stderr: 'err', system: 'sys' }[entry.stream] ?? ''),
      h('span', { class: 'zb-ln' }, ansi(entry.line, search.query)),
    );
  }

  // Who asks for a place has it painted at once: the event of a scroll before that comes ahead of the next frame, and
  // would be taken for the reader's newer wish.
  function paint() {
    cancelAnimationFrame(frame);
    frame = 0;
    bar();
    box.hidden = isFolded();
    if (box.hidden) return;
    const height = total() * ROW;
    canvas.style.height = `${Math.min(height, MAX_HEIGHT)}px`;
    if (!size.isRendered()) return;
    // What the reader looks at stays in its place when rows go above it, or come, as rules do with older lines.
    if (anchor && !only) at += (rowOf(anchor.seq) - anchor.row) * ROW;
    at = Math.max(0, stick ? height - list.clientHeight : Math.min(at, height - list.clientHeight));
    const top = at / scale();
    if (Math.abs(list.scrollTop - top) >= 1) list.scrollTop = top;
    const scrolled = list.scrollTop;
    const rules = rulesNow();
    anchor = only ? null : anchorAmong(rules);
    const from = Math.max(0, Math.floor(at / ROW) - SPARE);
    const to = Math.min(total(), Math.ceil((at + list.clientHeight) / ROW) + SPARE);
    const wanted = new Map();
    let hole = null;
    for (let index = from; index < to; index += 1) {
      const row = rowAt(index, rules);
      const here = row.attempt != null || store.get(row.seq);
      if (row.seq != null) store.lookAt(row.seq);
      if (!here) hole ??= row.seq;
      wanted.set(row.attempt != null ? `rule ${row.attempt}` : here ? row.seq : `? ${row.seq}`, row);
    }
    for (const [key, node] of shown) {
      if (wanted.has(key)) continue;
      node.remove();
      shown.delete(key);
    }
    // Rows that stay are not touched, so that a selection in them lives on.
    let next = rows.firstChild;
    for (const [key, row] of wanted) {
      let node = shown.get(key);
      if (!node) shown.set(key, (node = rowElement(row)));
      if (node === next) next = next.nextSibling;
      else rows.insertBefore(node, next);
    }
    rows.style.top = `${from * ROW - at + scrolled}px`;
    // As the rows have left it: with a long line among them a scroll bar takes its height of the list.
    lastTop = list.scrollTop;
    lastHeight = list.clientHeight;
    clearTimeout(resting);
    // Not while scrolling goes on: a drag through a long log would ask for every page on its way. What could not be
    // read is asked for again by a later paint.
    if (hole != null && store.fetchLines)
      resting = setTimeout(() => void store.fetchAround(hole).then((came) => came && schedule(), () => {}), REST_MS);
  }
  function repaint() {
    shown.clear();
    rows.replaceChildren();
    schedule();
  }
  function schedule() {
    frame ||= requestAnimationFrame(paint);
  }

  function bar() {
    const held = tools.contains(document.activeElement) ? document.activeElement : null;
    fold.setAttribute('aria-expanded', !isFolded());
    tools.hidden = isFolded();
    followButton.hidden = feed.ended;
    followButton.setAttribute('aria-pressed', stick);
    onlyButton.hidden = !only && store.complete && store.stderr === 0;
    // Of a failed job there may be one among the lines that are not here.
    const likely = feed.job.state === 'failed' && !noError && (store.stderr || !store.complete);
    markButton.hidden = only || (store.firstMark == null && !likely);
    tallButton.hidden = !tall && total() * ROW <= 234;
    // What goes away does not take the keyboard along.
    if (held && (held.hidden || tools.hidden)) (tools.hidden ? fold : list).focus({ preventScroll: true });
    const all = store.end;
    const parts = [plural(all, 'line')];
    if (store.begin) parts.push(`the last ${(all - store.begin).toLocaleString('en')} are here`);
    else if (feed.connection === 'reconnecting' && !feed.ended && feed.heardAt)
      parts.push(`up to ${timeOfDay(feed.heardAt)}`);
    else if (store.stderr && store.complete) parts.push(`${store.stderr.toLocaleString('en')} on stderr`);
    if (search.words) parts.splice(0, parts.length, search.words);
    count.textContent = parts.join(', ');
  }

  function restart() {
    search.start(find.value.toLowerCase(), only, store.begin);
    repaint();
  }
  function goTo(seq) {
    stick = false;
    const row = rowOf(seq);
    anchor = { seq, row };
    at = row * ROW - Math.max(0, (list.clientHeight - ROW) / 2);
    list.scrollLeft = 0;
    repaint();
    paint();
  }
  /**
   * Let the window show the log, and of it this line, to who has asked for it: the bar with its buttons may be all of it
   * that stood there. Not for what comes by itself, which must not move a page that somebody reads.
   */
  function bringIntoSight(seq) {
    el.scrollIntoView({ block: 'nearest' });
    // Where the window is lower than the log.
    (shown.get(seq) ?? shown.get(`? ${seq}`))?.scrollIntoView({ block: 'nearest' });
  }
  async function wholeText() {
    const out = [];
    for (let from = store.begin; from < store.end;) {
      const { entries, to } = await store.pass(from);
      for (const { line } of entries) out.push(plainText(line));
      from = to;
    }
    return `${out.join('\n')}\n`;
  }

  list.addEventListener('scroll', () => {
    schedule();
    if (list.clientHeight !== lastHeight) return; // with another height the browser moves it: no reader does
    const top = list.scrollTop;
    const atEnd = list.scrollHeight - top - list.clientHeight < NEAR_END;
    // Only a move upwards is the reader's: at the end, growth alone also leaves a distance to it.
    if (top < lastTop && !atEnd) stick = false;
    else if (atEnd && top > lastTop) stick = true;
    if (top !== lastTop) at = top * scale();
    lastTop = top;
  });
  const size = watchSize(list, schedule);
  // One that is put elsewhere in the page loses its place, and no event of its own says so.
  const sight = new IntersectionObserver(schedule, { root: list });
  sight.observe(rows);

  return {
    el,
    sync() {
      const { state } = feed.job;
      const isAll = !feed.displays.length && !hasValue(feed); // that the job had to say
      foldByState = (state === 'succeeded' || state === 'canceled') && store.end > SHORT && !isAll;
      // Whoever reads in it keeps it open when the job ends.
      if (foldByState && folded == null && shown.size && (!stick || el.contains(document.activeElement)))
        folded = false;
      void search.walk();
      paint(); // now: whoever calls this is in a frame already, and another one would show the lines later
    },
    dispose() {
      cancelAnimationFrame(frame);
      clearTimeout(resting);
      frame = -1;
      search.stop();
      size.stop();
      sight.disconnect();
    },
  };
}
