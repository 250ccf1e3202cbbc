// Workers and what ran on them in the last hour: a lane for each worker, in it a row for each slot.
import { STATE_WORDS, clock, h, timeOfDay } from '../elements.js';
import { visibleName } from '../text.js';

const HOUR_MS = 3_600_000;
const QUIET_MS = 45_000; // a worker is heard every 10 to 20 seconds
const MOST_SLOTS = 16; // rows of one lane
const MOST_PIPS = 32;
const GRAIN_MS = 12_000; // some 3 px; brief runs in it are drawn as one, or thousands of them would slow the page

const at = (iso) => (iso ? Date.parse(iso) : null);

/** Give each run a row of its lane: the first that was free when it began. */
function spread(runs, slots) {
  const freeAt = Array(slots).fill(-Infinity);
  return runs
    .sort((a, b) => a.from - b.from)
    .map((run) => {
      const found = freeAt.findIndex((time) => time <= run.from + 50);
      const row = found < 0 ? freeAt.indexOf(Math.min(...freeAt)) : found;
      freeAt[row] = Math.max(freeAt[row], run.to);
      return { ...run, row };
    });
}

/** Brief runs of a row that ended alike and began close to each other, as one: of `many`, the last. */
function gathered(runs) {
  const found = new Map();
  for (const run of runs) {
    const brief = run.to - run.from < GRAIN_MS && run.row_.state !== 'running';
    const key = brief ? `${run.row} ${run.row_.state} ${Math.floor(run.from / GRAIN_MS)}` : run;
    const { from = run.from, to = run.to, many = 0 } = found.get(key) ?? {};
    found.set(key, { ...run, from, to: Math.max(to, run.to), many: many + 1 });
  }
  return [...found.values()];
}

function runsOf(rows, now) {
  const found = new Map();
  for (const row of rows) {
    const from = at(row.started_at);
    if (from == null || !row.worker_id) continue;
    const to = at(row.finished_at) ?? (row.state === 'running' ? now : null);
    if (to == null || to < now - HOUR_MS) continue;
    if (!found.has(row.worker_id)) found.set(row.worker_id, []);
    found.get(row.worker_id).push({ from, to, row_: row });
  }
  return found;
}

export function lanes({ rows, overview, now, jobUrl, target }) {
  const runs = runsOf(rows.values(), now);
  const known = new Map((overview?.workers ?? []).map((worker) => [worker.id, worker]));
  const ids = [...known.keys(), ...[...runs.keys()].filter((id) => !known.has(id))];
  const serverNow = (overview?.now ?? 0) * 1000;
  return h(
    'div',
    { class: 'zb-lanes' },
    ids.map((id) => lane(id, known.get(id), runs.get(id) ?? [], now, serverNow, jobUrl, target)),
    h('span'),
    h('span'),
    h('span', { class: 'zb-health' }),
    h(
      'div',
      { class: 'zb-axis', 'aria-hidden': 'true' },
      [60, 45, 30, 15].map((minutes) => h('span', {}, timeOfDay(now - minutes * 60_000, false))),
      h('span', {}, 'now'),
    ),
  );
}

/** How long the worker's jobs keep the person's server beside it from being culled, as `culling_remark` says it. */
function cullingOf(worker, serverNow) {
  const culling = worker?.health?.culling;
  if (!culling || !worker.running) return null;
  if (!culling.cap_secs) return 'Running jobs do not keep the server beside it from being culled (keep_server_hours is 0).';
  const until = (culling.active_at + culling.cap_secs) * 1000;
  if (serverNow < until) return `Running jobs keep the server beside it from being culled until ${timeOfDay(until, false)}.`;
  const minutes = (serverNow / 1000 - culling.active_at) / 60;
  const idle = minutes > 120 ? `${Math.round(minutes / 60)} h` : `${Math.round(minutes)} min`;
  return `The server beside it may be culled while jobs run: nobody did anything there for ${idle}.`;
}

function lane(id, worker, runs, now, serverNow, jobUrl, target) {
  const slots = Math.max(1, worker?.slots ?? 1);
  const rowCount = Math.min(MOST_SLOTS, slots);
  const running = worker?.running ?? runs.filter(({ row_ }) => row_.state === 'running').length; // also of other orgs
  const used = Math.min(slots, running);
  const silent = worker ? serverNow - worker.seen_at * 1000 : Infinity;
  const quiet = silent > QUIET_MS;
  const rowHeight = Math.max(4, 24 / rowCount);
  const gap = rowCount > 4 ? 1 : 1.5;
  const health = !worker
    ? h('span', { class: 'zb-mute' }, 'not here now')
    : quiet
      ? h('span', { class: 'zb-word' }, `quiet for ${clock(silent / 1000)}`)
      : [h('span', {}, worker.kind), h('span', { class: 'zb-mute' }, `, ${Math.max(0, Math.round(silent / 1000))} s ago`)];
  const counted = `${used} of ${slots} slots used`;
  const culling = cullingOf(worker, serverNow);
  return [
    h('div', { class: 'zb-cut', title: id }, h('span', { class: 'zb-lane-name' }, visibleName(id))),
    h(
      'div',
      {},
      h(
        'span',
        { class: 'zb-pips', role: 'img', 'aria-label': counted, title: counted },
        Array.from({ length: Math.min(MOST_PIPS, worker ? slots : 0) }, (_, i) =>
          h('i', { class: quiet ? 'zb-gone' : i < used ? 'zb-full' : null }),
        ),
      ),
    ),
    h('div', { class: 'zb-cut zb-health', 'data-state': quiet && worker ? 'retrying' : '' }, health),
    h(
      'div',
      {
        class: 'zb-track',
        role: 'group',
        'aria-label': `${id}: ${counted}; last hour by slot`,
        vars: { '--h': `${rowCount * rowHeight + 4}px` },
      },
      gathered(spread(runs, rowCount)).map((run) => span(run, rowHeight, gap, now, jobUrl, target)),
    ),
    culling && h('div', { class: 'zb-lane-note zb-small zb-mute' }, culling),
  ];
}

function span({ from, to, row, row_: job, many }, rowHeight, gap, now, jobUrl, target) {
  const left = Math.max(0, (from - now + HOUR_MS) / HOUR_MS);
  const right = Math.min(1, (to - now + HOUR_MS) / HOUR_MS);
  const name = visibleName(job.name);
  const said = `${name}: ${STATE_WORDS[job.state].toLowerCase()}, ${clock((to - from) / 1000)}`;
  return h('a', {
    class: 'zb-span',
    href: jobUrl(job.id),
    target,
    tabindex: -1, // the table has the same, for the keyboard
    'aria-label': name,
    'data-state': job.state,
    title: many > 1 ? `${many.toLocaleString('en')} ${STATE_WORDS[job.state].toLowerCase()}, the last ${name}` : said,
    vars: {
      left: `${(left * 100).toFixed(3)}%`,
      width: `calc(${((right - left) * 100).toFixed(3)}% - 1px)`,
      top: `${(2 + row * rowHeight).toFixed(2)}px`,
      height: `${(rowHeight - gap).toFixed(2)}px`,
    },
  });
}
