// The dashboard: `renderDashboard(el, feed, {jobUrl, homeUrl, target, keysOn, filter, onFilter}) -> dispose`. Numbers and
// charts, workers with what ran on them, filters, acts on many jobs, and the table. It reads the feed and asks it to act.
import { STATE_WORDS, button, bytes, clock, h, icon, plural, stateMark, timeOfDay } from '../elements.js';
import { countThere } from '../many.js';
import { pressIn, settle } from '../press.js';
import { bars, lines } from './charts.js';
import { lanes } from './lanes.js';
import { quotaBars } from './quotas.js';
import { canCancel, canRetry, grouped, groupings, isOwn, sorted, wanted } from './rows.js';
import { jobsTable } from './table.js';

const STATES = ['running', 'pending', 'retrying', 'succeeded', 'failed', 'canceled'];
/** A length of time in one unit: with colons it reads like a time of day. */
const roughly = (seconds) => {
  if (seconds < 100) return `${Math.max(0, Math.round(seconds))} s`;
  const hours = seconds / 3600;
  return hours < 1.5 ? `${Math.round(seconds / 60)} min` : `${hours.toFixed(hours < 9.95 ? 1 : 0)} h`;
};
const noFilter = () => ({ state: '', owner: '', q: '' });
const ORDER_MS = 400; // rows are put in order at most so often while events come
const LANES_MS = 5_000;
const FIND_MS = 300;
const RATE_MINUTES = 6;

export function renderDashboard(el, feed, { jobUrl, homeUrl = null, target = null, keysOn = el, filter: first, onFilter } = {}) {
  const chosen = new Set();
  const folds = new Set(); // groups that are open
  const filter = { ...noFilter(), ...first };
  let sort = ['created', -1];
  let group = '';
  let order = []; // rows that pass the filter
  let orderKey = null;
  let orderedAt = 0;
  let overview = null;
  let lanesAt = -Infinity;
  let frame = 0;
  let later = null;
  let findLater = null;
  let { org, outcome } = feed;
  let said = ''; // what it was

  const strip = h('div', { class: 'zb-strip', role: 'group', 'aria-label': 'Now' });
  const quotas = h('div', { class: 'zb-quotas', role: 'group', 'aria-label': 'Limits', hidden: true });
  const lanesBox = h('div');
  const pane = h(
    'section',
    { class: 'zb-pane', 'aria-label': 'Workers' },
    h('header', {}, h('h2', { class: 'zb-h' }, 'Workers'), h('span', { class: 'zb-mute zb-small' }, 'one row a slot, last hour')),
    lanesBox,
  );
  const noticeSaid = h('span', { role: 'alert' });
  const noticeNext = h('span'); // counts down, and is not spoken
  const problem = h('span', { role: 'alert' });
  const saidToo = h('span'); // `status` speaks it
  const notice = h('div', { class: 'zb-notice', hidden: true }, noticeSaid, ' ', noticeNext, ' ', problem, ' ', saidToo);
  const seg = h('div', { class: 'zb-seg', role: 'group', 'aria-label': 'State' });
  const search = h('input', {
    class: 'zb-input',
    type: 'search',
    value: filter.q,
    autocomplete: 'off', // or a page that is come back to shows a text that nobody has read
    placeholder: 'Name, reason, tag',
    'aria-label': 'Filter jobs',
    oninput: () => refilter({ q: search.value.trim() }),
    onkeydown: (event) => {
      if (event.key !== 'Escape') return;
      search.value = '';
      refilter({ q: '' });
      table.move(0);
    },
  });
  const owners = h('select', { class: 'zb-input', autocomplete: 'off', 'aria-label': 'Owner', onchange: () => refilter({ owner: owners.value }) });
  const groups = h('select', {
    class: 'zb-input',
    autocomplete: 'off',
    'aria-label': 'Group by',
    onchange: () => {
      group = groups.value;
      refresh();
    },
  });
  const home = h(
    'a',
    { class: 'zb-btn zb-btn-bare zb-btn-icon', target, rel: 'noopener', title: 'Open the console', 'aria-label': 'Open the console', hidden: true },
    icon('open'),
  );
  const bulk = h('div', { class: 'zb-bulk', role: 'region', 'aria-label': 'Selected jobs', hidden: true });
  const foot = h('span');
  const empty = h('p', { class: 'zb-empty zb-mute', hidden: true });
  const status = h('span', { class: 'zb-vh', role: 'status' });
  const table = jobsTable({
    jobUrl,
    target,
    chosen,
    now: () => feed.now,
    onSort: (key) => {
      sort = [key, sort[0] === key ? -sort[1] : key === 'created' || key === 'elapsed' || key === 'progress' ? -1 : 1];
      refresh();
    },
    onChoose: choose,
    onChooseAll: (on) => choose(order, on),
    onFold: (name) => {
      if (!folds.delete(name)) folds.add(name);
      refresh();
    },
  });

  table.el.append(empty); // under its head, where rows would be
  strip.hidden = pane.hidden = true; // until there are numbers
  el.classList.add('zb', 'zb-page');
  el.replaceChildren(
    h('h1', { class: 'zb-vh' }, 'Jobs'),
    strip,
    quotas,
    pane,
    notice,
    h('div', { class: 'zb-filters' }, seg, h('span', { class: 'zb-gap' }), search, owners, groups, home),
    bulk,
    table.el,
    h(
      'div',
      { class: 'zb-end' },
      foot,
      h('span', { class: 'zb-gap' }),
      h('span', { class: 'zb-wide' }, key('/'), ' filter ', key('j'), ' ', key('k'), ' move ', key('x'), ' select ', key('Enter'), ' open'),
    ),
    status,
  );

  function key(name) {
    return h('kbd', {}, name);
  }
  function choose(rows, on) {
    said = '';
    for (const { id } of rows) {
      if (on) chosen.add(id);
      else chosen.delete(id);
    }
    refresh();
  }
  function refilter(change) {
    Object.assign(filter, change);
    said = '';
    table.el.scrollTop = 0;
    refresh();
    status.textContent = `${plural(order.length, 'job')} shown`;
    clearTimeout(findLater);
    findLater = setTimeout(() => {
      onFilter?.({ ...filter });
      void feed.find({ ...filter });
    }, FIND_MS);
  }

  // ---- numbers and charts
  function number(state, label, big, sub, onclick) {
    return h(
      'button',
      { type: 'button', class: 'zb-stat', onclick },
      h('span', { class: 'zb-mute zb-small' }, label),
      h('span', { class: 'zb-big', 'data-state': state }, state && stateMark(state, '').firstChild, big),
      h('span', { class: 'zb-mute zb-small zb-cut', title: sub }, sub),
    );
  }
  function chart(label, big, sub, picture, onclick) {
    return h(
      onclick ? 'button' : 'div',
      { type: onclick && 'button', class: 'zb-stat zb-chart', onclick },
      h('span', { class: 'zb-told' }, h('span', { class: 'zb-mute zb-small' }, label), h('span', { class: 'zb-big' }, big), h('span', { class: 'zb-mute zb-small' }, sub)),
      picture,
    );
  }
  function buildStrip() {
    const { counts } = feed;
    const { minutes, workers, storage } = overview;
    const heard = workers.filter(({ seen_at: seen }) => overview.now - seen <= 45);
    const silent = workers.length - heard.length;
    // As they say: a worker may run jobs of other orgs, which are not here.
    const [slots, free] = ['slots', 'free'].map((name) => heard.reduce((sum, worker) => sum + worker[name], 0));
    const running = counts.running ?? 0;
    const pending = counts.pending ?? 0;
    const queued = pending + (counts.retrying ?? 0);
    const oldest = overview.oldest_pending_at;
    const rows = [...feed.rows.values()].filter(({ state }) => state === 'running');
    const quiet = rows.filter(({ progress }) => progress?.fraction == null).length;
    const many = (n) => n.toLocaleString('en');
    const recent = minutes.ended.slice(-RATE_MINUTES);
    const begun = (overview.now - minutes.first_at) / 60 - minutes.ended.length + 1; // part of the last minute
    const rate = recent.reduce((a, b) => a + b, 0) / (recent.length - 1 + begun);
    const shown = rate >= 10 || rate === 0 ? Math.round(rate) : rate.toFixed(1);
    const lastOf = (values) => values.findLast((value) => value != null);
    const median = lastOf(minutes.wait_p50_secs);
    const slow = lastOf(minutes.wait_p95_secs);
    // The store's last is some seconds old. Of past minutes it knows who waited for the first start alone.
    const waiting = [...minutes.waiting.slice(0, -1), pending];
    const titlesOf = (textOf) => minutes.ended.map((_, i) => `${timeOfDay((minutes.first_at + 60 * i) * 1000, false)}: ${textOf(i)}`);
    const over = `over ${minutes.ended.length} minutes`;
    const place = document.activeElement?.closest?.('.zb-strip') === strip ? [...strip.children].indexOf(document.activeElement) : -1;
    strip.replaceChildren(
      number('running', 'Running', many(running), quiet ? `${many(quiet)} without progress` : ' ', () => pick('running')),
      number('failed', 'Failed', many(overview.failed_last_day), 'in 24 hours', () => pick('failed')),
      number(
        '',
        'Slots free',
        [many(free), h('small', {}, `of ${many(slots)}`)],
        `${plural(workers.length, 'worker')}${silent ? `, ${silent} quiet` : ''}; ${storage.database_bytes === undefined ? `${bytes(storage.artifact_bytes)} of yours` : bytes(storage.database_bytes + storage.artifact_bytes)} stored`,
        () => pane.scrollIntoView({ block: 'start' }),
      ),
      chart(
        'Queued',
        many(queued),
        oldest ? `oldest waits ${roughly(overview.now - Date.parse(oldest) / 1000)}` : queued > pending ? 'none for its first start' : 'nothing waits',
        bars(
          `Jobs waiting for their first start at the end of each minute ${over}, now ${many(pending)}`,
          waiting,
          [],
          titlesOf((i) => `${many(waiting[i])} waiting for their first start`),
        ),
        () => pick('pending'),
      ),
      chart(
        'Throughput',
        [shown, h('small', {}, 'a minute')],
        `last ${minutes.ended.length} min`,
        bars(`Jobs ended each minute ${over}, now about ${shown}`, minutes.ended, minutes.failed, titlesOf((i) => `${minutes.ended[i]} ended, ${minutes.failed[i]} failed`)),
      ),
      chart(
        'Wait',
        [median == null ? '–' : secs(median), h('small', {}, h('i', { class: 'zb-swatch' }), 'median')],
        [h('i', { class: 'zb-swatch zb-swatch-2' }), slow == null ? '95 in 100' : `95 in 100 under ${secs(slow)}`],
        lines(`Waiting time ${over}, median and 95th percentile`, minutes.wait_p50_secs, minutes.wait_p95_secs),
      ),
    );
    if (place >= 0) strip.children[place]?.focus({ preventScroll: true });
  }
  const secs = (value) => (value < 0.95 ? `${value.toFixed(2)} s` : value < 60 ? `${value.toFixed(value < 9.5 ? 1 : 0)} s` : clock(value));
  function pick(state) {
    refilter({ state: filter.state === state ? '' : state });
  }

  // ---- filters and acts
  seg.append(
    ...['', ...STATES].map((state) =>
      h(
        'button',
        { type: 'button', class: 'zb-btn', 'data-pick': state, 'data-state': state, onclick: () => refilter({ state }) },
        state && stateMark(state, '').firstChild,
        STATE_WORDS[state] ?? 'All',
        h('span'),
      ),
    ),
  );
  function patchFilters() {
    for (const choice of seg.children) {
      const { pick: state } = choice.dataset;
      choice.setAttribute('aria-pressed', filter.state === state);
      const count = ((state ? feed.counts[state] : feed.total) ?? 0).toLocaleString('en');
      if (choice.lastChild.textContent !== count) choice.lastChild.textContent = count;
    }
  }
  let optionsKey = null;
  function buildOptions() {
    const found = [...new Set([...feed.rows.values()].map(({ owner }) => owner))].sort();
    const ways = groupings(feed.rows.values());
    const now = JSON.stringify([found, ways]);
    if (now === optionsKey) return;
    optionsKey = now;
    const fill = (select, pairs, value) => {
      select.replaceChildren(...pairs.map(([each, label]) => h('option', { value: each, selected: each === value }, label)));
      select.value = value;
    };
    fill(owners, [['', 'Any owner'], ...found.map((name) => [name, name])], filter.owner);
    owners.hidden = found.length < 2 && !filter.owner;
    fill(groups, ways, group);
  }
  let bulkKey = null;
  let offered = {}; // ids by what is offered to be done to them
  function buildBulk() {
    const rows = order.filter(({ id }) => chosen.has(id)); // nobody sees the others
    const cancel = rows.filter(canCancel).map(({ id }) => id);
    const ended = rows.filter(canRetry);
    const retry = ended.filter((row) => isOwn(row, feed.viewer)).map(({ id }) => id);
    const others = ended.length - retry.length;
    offered = { cancel, retry }; // also where the buttons stay: by another filter as many other jobs may be meant
    const passedOver = others > 0 && h('span', { class: 'zb-mute' }, `${plural(others, 'job')} of others: Retry is on a job's own page`);
    const now = JSON.stringify([rows.length, cancel.length, retry.length, others, feed.acting, feed.connection]);
    if (now === bulkKey) return;
    bulkKey = now;
    bulk.hidden = !rows.length;
    const held = bulk.contains(document.activeElement) && document.activeElement.dataset.verb;
    const act = (verb, word) =>
      offered[verb].length > 0 &&
      button(`${word} ${offered[verb].length.toLocaleString('en')}`, {
        'data-verb': verb,
        disabled: feed.acting != null || feed.connection !== 'live',
        onclick: () => actOn(verb),
      });
    bulk.replaceChildren(
      h('b', {}, `${rows.length.toLocaleString('en')} selected`),
      ...[act('cancel', 'Cancel'), act('retry', 'Retry'), passedOver].filter(Boolean),
      h('span', { class: 'zb-gap' }),
      button('Clear', {
        class: 'zb-btn-bare',
        'data-verb': 'clear',
        onclick: () => {
          chosen.clear();
          refresh();
        },
      }),
    );
    settle(bulk, ['cancel', 'retry'].filter((verb) => offered[verb].length));
    if (!held) return;
    // Never on what does something else: the next key may be on its way.
    const same = bulk.querySelector(`[data-verb="${held}"]:not([disabled])`) ?? bulk.querySelector('[data-verb="clear"]');
    (bulk.hidden ? table.el.querySelector('input') : same)?.focus({ preventScroll: true });
  }

  function actOn(verb) {
    said = '';
    void feed.act(verb, offered[verb].filter((id) => chosen.has(id)));
  }
  /** Tell what an act has done. That keeps no selection: another press would do it, or its opposite, to what came of it. */
  function tellOutcome() {
    ({ outcome } = feed);
    said = '';
    if (!outcome) return;
    const { verb, ids, jobs, isWhole } = outcome;
    const acted = isWhole ? ids : jobs.map(({ id, retry_of: old }) => (verb === 'retry' ? old : id));
    for (const id of acted) chosen.delete(id);
    const there = countThere(jobs);
    const made = jobs.length - there;
    const where = outcome.org === feed.org ? '' : ` in ${outcome.org}`;
    const what = verb === 'retry' ? 'submitted again' : jobs.every(({ state }) => state === 'canceled') ? 'canceled' : 'told to stop';
    const done = `${what}${where}`;
    const none = isWhole ? `0 jobs ${done}.` : !feed.problem && `No job is known to have been ${done}.`;
    const parts = [
      made ? `${plural(made, 'job')} ${done}.` : !there && none,
      there && `${plural(there, 'job')} had been submitted again already${where}; nothing new was made of ${there === 1 ? 'it' : 'them'}.`,
    ];
    said = parts.filter(Boolean).join(' ');
    status.textContent = said;
    refresh();
  }

  // ---- the table
  function putInOrder() {
    orderedAt = performance.now();
    orderKey = feed.version;
    order = sorted([...feed.rows.values()].filter(wanted(filter)), sort, feed.now);
    buildOptions();
  }
  function itemsOf() {
    if (!group) return order;
    return grouped(order, group).flatMap((one) => {
      const open = folds.has(one.group);
      return [{ ...one, open }, ...(open ? one.rows : [])];
    });
  }
  function buildTable() {
    const picked = order.filter(({ id }) => chosen.has(id)).length;
    table.show(itemsOf(), { sort, allChosen: picked > 0 && picked === order.length, someChosen: picked > 0 });
    const here = feed.rows.size.toLocaleString('en');
    const total = Math.max(feed.total, feed.rows.size).toLocaleString('en');
    foot.textContent = !feed.rows.size && !feed.complete
      ? ''
      : feed.loading
      ? `${here} of ${total} here, more come`
      : feed.complete
        ? `${order.length < feed.rows.size ? `${order.length.toLocaleString('en')} of ` : ''}${plural(feed.rows.size, 'job')}`
        : feed.moreFit
          ? newestFit()
          : `Newest ${here} of ${total}; a state, an owner or a name finds older ones`;
    empty.hidden = order.length > 0 || (!feed.rows.size && !feed.complete);
    empty.textContent = feed.rows.size ? 'No job fits this filter.' : 'No jobs yet. Put %%zbrain on top of a cell, or `zbrain run --` before a command.';
  }

  /** How many are shown of those that fit, and of how many, where that is known. */
  function newestFit() {
    const { state, owner, q } = filter;
    const all = state && !owner && !q ? ` of ${(feed.counts[state] ?? 0).toLocaleString('en')} ${state}` : ' that fit';
    return `Newest ${order.length.toLocaleString('en')}${all}; a narrower filter finds older ones`;
  }

  function connectionText() {
    if (feed.connection === 'unknown') return [feed.refusal ?? 'You are not a member of this org, or there is none of this name.', ''];
    if (feed.connection !== 'reconnecting') return ['', ''];
    const left = feed.nextTryAt ? Math.ceil((feed.nextTryAt - Date.now()) / 1000) : 0;
    const since = feed.heardAt ? ` since ${timeOfDay(feed.heardAt)}` : '';
    const lost = feed.refusal ?? `No connection to the server${since}. Jobs go on; what is shown may be old.`;
    return [lost, left > 0 ? `Next try in ${left} s.` : 'Trying now.'];
  }
  function patchNotice() {
    const texts = [...connectionText(), feed.problem ?? '', said];
    [noticeSaid, noticeNext, problem, saidToo].forEach((part, i) => {
      if (part.textContent !== texts[i]) part.textContent = texts[i];
    });
    notice.hidden = !texts.some(Boolean);
  }

  /** All that the feed says; while events pour in, rows are put in order only now and then. */
  function update() {
    frame = 0;
    if (press.on) return;
    patchNotice();
    const url = homeUrl?.(); // only known once the server is
    if (url && home.hidden) {
      home.href = url;
      home.hidden = false;
    }
    el.dataset.connection = feed.connection;
    patchFilters();
    if (feed.overview && feed.overview !== overview) {
      overview = feed.overview;
      strip.hidden = false;
      buildStrip();
      quotas.replaceChildren(...quotaBars(overview.quotas));
      quotas.hidden = !overview.quotas.length;
    }
    const wait = orderedAt + ORDER_MS - performance.now();
    if (orderKey !== feed.version && wait > 0) {
      later ??= setTimeout(() => {
        later = null;
        schedule();
      }, wait);
      return;
    }
    if (orderKey !== feed.version) putInOrder();
    buildTable();
    buildBulk();
    // Under the pointer they stay, or what it points at would move away.
    if (overview && feed.rows.size && performance.now() - lanesAt > LANES_MS && !lanesBox.matches(':hover')) {
      lanesAt = performance.now();
      lanesBox.replaceChildren(lanes({ rows: feed.rows, overview, now: feed.now, jobUrl, target }));
      pane.hidden = !lanesBox.querySelector('.zb-track');
    }
  }
  /** What a person did shows at once. */
  function refresh() {
    putInOrder();
    update();
  }
  function schedule() {
    frame ||= requestAnimationFrame(update);
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const field = event.target.closest?.('input:not([type="checkbox"]), select, textarea');
    if (field) return;
    if (event.key === '/') search.focus();
    else if (event.key === 'j' || event.key === 'k') table.move(event.key === 'j' ? 1 : -1);
    else if (event.key === 'x' && table.active) {
      const { active } = table;
      const rows = active.group == null ? [active] : active.rows;
      choose(rows, !rows.every(({ id }) => chosen.has(id)));
    } else return;
    event.preventDefault();
  }
  keysOn.addEventListener('keydown', onKey);

  const press = pressIn(el, schedule);
  const off = feed.on(() => {
    // At once, or a press could act on what is done, or on rows of the org that was left.
    if (feed.outcome !== outcome) tellOutcome();
    if (feed.org !== org) {
      ({ org } = feed);
      refresh();
    }
    schedule();
  });
  if (first) void feed.find({ ...filter });
  const clockwork = setInterval(() => {
    if (!document.hidden) schedule();
    table.schedule();
  }, 1000);
  update();

  return () => {
    off();
    press.dispose();
    clearInterval(clockwork);
    clearTimeout(later);
    clearTimeout(findLater);
    cancelAnimationFrame(frame);
    frame = -1;
    keysOn.removeEventListener('keydown', onKey);
    table.dispose();
    el.replaceChildren();
  };
}
