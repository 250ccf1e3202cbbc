// What the notebook keeps of a group, made by the page: the kernel that would have done it (`groups.py`, which says the
// same) may have been restarted, or knows nothing of what was tried again here.
import { h, plural } from './elements.js';
import { cut, plainText } from './text.js';

const MIME_TYPE = 'application/vnd.zbrain.group+json';
const FIELDS = ['id', 'state', 'created_at', 'started_at', 'finished_at', 'reason', 'exit_code', 'event_seq'];
const MAX_LISTED = 50;

/** Whether the notebook should hold something else than `saved`: other runs, or the end of all. */
export function isNews(feed, saved) {
  if (feed.connection !== 'live') return false;
  const before = saved.runs;
  if (feed.jobs.some(({ id }, place) => id !== before[place].id)) return true;
  return feed.ended && feed.jobs.some(({ state }, place) => state !== before[place].state);
}

/** The display data of a group as it stands, by mime type. */
export function groupBundleOf(feed) {
  const runs = feed.jobs.map((job, place) => ({
    ...Object.fromEntries(FIELDS.map((field) => [field, job[field] ?? null])),
    label: feed.labels[place],
  }));
  const saved = { version: 1, name: feed.name, org: feed.org, runs, earlier: feed.earlier.ids };
  return { [MIME_TYPE]: saved, 'text/html': html(feed, runs), 'text/plain': '<zbrain group>' };
}

function html({ name, counts }, runs) {
  const said = counts.map(([state, count]) => `${count.toLocaleString('en')} ${state}`).join(', ');
  const failed = runs.filter(({ state }) => state === 'failed'); // those that went wrong first
  const listed = [...failed, ...runs.filter(({ state }) => state !== 'failed')].slice(0, MAX_LISTED);
  const cells = ({ label, state, reason }) => [label, state, reason ?? ''].map((text) => h('td', {}, plainText(cut(text))));
  const more = runs.length - listed.length;
  return h(
    'div',
    {},
    h('p', {}, h('b', {}, plainText(name)), `: ${plural(runs.length, 'run')}, ${said}`),
    h(
      'details',
      {},
      h('summary', {}, 'Runs'),
      h('table', {}, listed.map((run) => h('tr', {}, cells(run)))),
      more > 0 && h('p', {}, `and ${more.toLocaleString('en')} more`),
    ),
  ).outerHTML;
}
