// Tells that a long job has ended to who does not look: a notification of the browser, and the tab's title.
// Asked for by `--notify-after`, which reaches the page as a tag of the job; nothing asks for the permission but a
// person's click. Several views, tabs and loads of one page tell of one job once.
import { STATE_WORDS, button, clock, h, plural } from './elements.js';
import { visibleName } from './text.js';
import { errorText } from './words.js';

const NOTIFY_TAG = 'zbrain.notify_after';
const NOTIFY_GROUP_TAG = 'zbrain.notify_group_after';
const TOLD_KEY = 'zbrain.told'; // in localStorage: what was told already, by any tab
const MOST_TOLD = 200;
const LET_OTHERS_MS = 500; // a view that is looked at claims first, and nobody is told
const TITLE_MARKS = { succeeded: '\u2713', failed: '\u2717', canceled: '\u2298' };

const toldHere = new Set();
let titleMark = '';

const secondsOf = (text) => (text != null && Number(text) >= 0 ? Number(text) : null);
const ranFor = (job) => (Date.parse(job.finished_at) - Date.parse(job.created_at)) / 1000;
const lastLineOf = (text) => visibleName(text.trim().split('\n').at(-1)).slice(0, 200);

/** What there is to tell of one job. */
export function noticeOfJob({ job, ended }) {
  const took = ranFor(job);
  return {
    id: job.id,
    ended,
    state: job.state,
    after: secondsOf(job.spec?.tags?.[NOTIFY_TAG]),
    took,
    title: `${visibleName(job.name)}: ${(STATE_WORDS[job.state] ?? '').toLowerCase()}`,
    body: job.state === 'failed' ? lastLineOf(errorText(job)) : `After ${clock(took)}`,
  };
}

/** What there is to tell of a group: the end of its last run. */
export function noticeOfGroup({ name, jobs, ended, failed, counts }) {
  const took = Math.max(...jobs.map(ranFor));
  return {
    id: jobs.map(({ id }) => id).join().slice(-36) + jobs.length,
    ended,
    state: failed.length ? 'failed' : 'succeeded',
    after: secondsOf(jobs[0]?.spec?.tags?.[NOTIFY_GROUP_TAG]),
    took,
    title: `${visibleName(name)}: ${plural(jobs.length, 'run')} ended`,
    body: counts.map(([state, count]) => `${count.toLocaleString('en')} ${state}`).join(', '),
  };
}

/**
 * Watch a feed and tell of its end.
 * @param {HTMLElement} el the view: who looks at it need not be told
 * @param {object} feed a feed of a job or a group
 * @param {function} noticeOf `noticeOfJob` or `noticeOfGroup`
 * @returns {function} ends the watch
 */
export function tellEnd(el, feed, noticeOf) {
  let active = null; // what was seen before its end: only that is news
  return feed.on(() => {
    if (!feed.ended) {
      if (feed.connection === 'live') active = noticeOf(feed).id;
      return;
    }
    const notice = noticeOf(feed);
    if (active !== notice.id) return;
    active = null;
    if (notice.after != null && !(notice.took < notice.after)) void tell(el, notice);
  });
}

/** What `noticeAsk` shows, while a person can still give the permission; else null. */
export const noticeAskOf = ({ ended, after }) =>
  !ended && after != null && globalThis.Notification?.permission === 'default' ? { after } : null;

/** The button that asks for the permission; `changed` is called when the person has decided. */
export const noticeAsk = ({ after }, changed) =>
  h(
    'div',
    { class: 'zb-sec' },
    button('Notify me when it ends', { onclick: () => Notification.requestPermission().then(changed) }),
    after > 0 && h('span', { class: 'zb-small zb-mute' }, ` if that takes ${clock(after)} or longer`),
  );

async function tell(el, notice) {
  const looked = isLookedAt(el);
  if (!looked) {
    markTitle(`${TITLE_MARKS[notice.state]} ${notice.title} \u2013 `);
    await new Promise((done) => setTimeout(done, LET_OTHERS_MS));
  }
  if (!(await claim(notice.id)) || looked || globalThis.Notification?.permission !== 'granted') return;
  try {
    const shown = new Notification(notice.title, { body: notice.body, tag: `zbrain-${notice.id}` });
    shown.onclick = () => {
      window.focus();
      el.scrollIntoView({ block: 'nearest' });
      shown.close();
    };
  } catch (error) {
    if (!(error instanceof TypeError)) throw error; // browsers of phones know the class and refuse its use
  }
}

function isLookedAt(el) {
  const { top, bottom } = el.getBoundingClientRect();
  return !document.hidden && document.hasFocus() && bottom > 0 && top < innerHeight && el.offsetParent !== null;
}

/** Whether this is the first, of all tabs, to tell of it. */
async function claim(id) {
  const take = () => {
    if (toldHere.has(id)) return false;
    toldHere.add(id);
    try {
      const told = JSON.parse(localStorage.getItem(TOLD_KEY) ?? '[]');
      if (told.includes(id)) return false;
      localStorage.setItem(TOLD_KEY, JSON.stringify([...told, id].slice(-MOST_TOLD)));
    } catch {
      // Storage is refused or spoilt: this tab alone is what can be known.
    }
    return true;
  };
  return navigator.locks ? navigator.locks.request(TOLD_KEY, take) : take();
}

/** Say it in the tab's title until somebody looks. */
function markTitle(mark) {
  clearTitle();
  titleMark = mark;
  document.title = mark + document.title;
  addEventListener('focus', clearTitle);
  document.addEventListener('visibilitychange', clearIfVisible);
}
const clearIfVisible = () => {
  if (!document.hidden) clearTitle();
};
function clearTitle() {
  if (titleMark && document.title.startsWith(titleMark)) document.title = document.title.slice(titleMark.length);
  titleMark = '';
  removeEventListener('focus', clearTitle);
  document.removeEventListener('visibilitychange', clearIfVisible);
}
