// What a row of the dashboard says, which rows are wanted, and in which order: pure functions of a row and the time.
import { clock } from '../elements.js';
import { ENDED } from '../feed.js';
import { errorLine, notebookOf, tagsOf } from '../words.js';

const MOST_TAGS = 100; // to group by: of each there is an element
const STATES = ['running', 'retrying', 'pending', 'failed', 'canceled', 'succeeded'];

const at = (iso) => (iso ? Date.parse(iso) : null);

export const whereOf = (row) => row.worker_id ?? row.spec?.worker ?? '';
export const fractionOf = (row) =>
  row.state === 'running' && Number.isFinite(row.progress?.fraction) ? Math.min(1, Math.max(0, row.progress.fraction)) : null;

/** Milliseconds that it ran or runs, or waits; null if there is nothing to count. */
export function elapsedOf(row, now) {
  if (row.state === 'pending') return now - at(row.created_at);
  if (row.started_at == null || row.state === 'retrying') return null;
  return (at(row.finished_at) ?? now) - at(row.started_at);
}
export function elapsedText(row, now) {
  const elapsed = elapsedOf(row, now);
  return elapsed == null ? '' : clock(elapsed / 1000);
}

export function reasonOf(row) {
  if (row.state === 'running') return row.cancel_requested_at ? 'cancel asked' : (row.progress?.note ?? '');
  if (row.state === 'failed') return row.error ? errorLine(row) : (row.reason ?? errorLine(row));
  if (row.state === 'canceled') return row.reason ?? (row.canceled_by ? `by ${row.canceled_by}` : '');
  return row.state === 'succeeded' ? '' : (row.reason ?? '');
}

export function wanted({ state, owner, q }) {
  const text = q.toLowerCase();
  return (row) =>
    (!state || row.state === state) && (!owner || row.owner === owner) && (!q || textOf(row).includes(text));
}
const textOf = (row) =>
  [row.name, row.id, row.owner, notebookOf(row), reasonOf(row), ...tagsOf(row).map((tag) => tag.join('='))].join('\n').toLowerCase();

const KEYS = {
  state: (row) => STATES.indexOf(row.state),
  name: (row) => row.name.toLowerCase(),
  owner: (row) => row.owner,
  notebook: notebookOf,
  progress: (row) => fractionOf(row) ?? -1,
  elapsed: (row, now) => elapsedOf(row, now) ?? -1,
  where: whereOf,
  created: (row) => row.id, // ids grow with time
  reason: (row) => reasonOf(row).toLowerCase(),
};

/** The rows in order; `by` is a column, `way` 1 or -1. Rows that are equal in it stand newest first. */
export function sorted(rows, [by, way], now) {
  const keyed = rows.map((row) => [KEYS[by](row, now), row]);
  keyed.sort(([a, x], [b, y]) => (a < b ? -way : a > b ? way : x.id < y.id ? 1 : -1));
  return keyed.map(([, row]) => row);
}

/** By what rows can be grouped: pairs of a key and its label. */
export function groupings(rows) {
  const tags = new Set();
  for (const row of rows) for (const [name] of tagsOf(row)) tags.add(name);
  return [
    ['', 'No grouping'],
    ['name', 'By name'],
    ['notebook', 'By notebook'],
    ...[...tags].sort().slice(0, MOST_TAGS).map((name) => [`tag ${name}`, `By tag ${name}`]),
  ];
}
function groupOf(row, by) {
  if (by === 'name') return row.name;
  if (by === 'notebook') return notebookOf(row) || 'no notebook';
  return row.spec?.tags?.[by.slice(4)] ?? 'without this tag';
}

/** Rows in the order of `rows`, gathered: a group stands where its first row stood. */
export function grouped(rows, by) {
  const found = new Map();
  for (const row of rows) {
    const label = groupOf(row, by);
    if (!found.has(label)) found.set(label, []);
    found.get(label).push(row);
  }
  return [...found].map(([label, members]) => ({ group: label, rows: members }));
}

export const canCancel = (row) => !ENDED.has(row.state) && !row.cancel_requested_at;
export const canRetry = (row) => row.state === 'failed' || row.state === 'canceled';
/** Others' jobs are not tried again many at a time: their code would run as the viewer, who has not looked at it. */
export const isOwn = (row, viewer) => viewer != null && row.owner === viewer;
