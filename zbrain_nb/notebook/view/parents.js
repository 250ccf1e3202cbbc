// "Waits for": the jobs that have to end before this one, each with its state as it is now, and a way to its page.
import { h, stateMark } from './elements.js';
import { ENDED, nameOf } from './feed.js';
import { visibleName } from './text.js';
import { faceOf, noteOf, timesOf, wordOf } from './words.js';

export const waitsForParents = (feed) =>
  feed.job.state === 'pending' && feed.parents.some(({ state }) => !ENDED.has(state));

/** What the words of a job are made of: the parent, heard of over the connection of the job that waits for it. */
const seen = (feed, job) => ({
  job,
  connection: feed.connection,
  heardAt: feed.heardAt,
  clockSkew: feed.clockSkew,
  now: feed.now,
  ended: ENDED.has(job.state),
  canceling: Boolean(job.cancel_requested_at),
  values: [],
});

function saysOf(feed, job) {
  const one = seen(feed, job);
  const [ran, beside] = timesOf(one);
  if (job.state === 'succeeded') return ran && `took ${ran}`;
  if (job.state === 'running') return beside || noteOf(one, false) || (ran && `running for ${ran}`);
  return noteOf(one, false);
}

/** A pane of the view (see `outputs.js`): rows stay in place, so that the keyboard does too. */
export function parentsPane(feed) {
  const list = h('ul', { class: 'zb-deps', 'aria-label': 'Waits for' });
  const more = h('p', { class: 'zb-small zb-mute', hidden: true });
  const el = h('div', { class: 'zb-sec' }, h('div', { class: 'zb-h' }, 'Waits for'), list, more);
  const rows = new Map();

  function rowOf(job) {
    const url = feed.pageOf?.(job.id);
    const name = visibleName(nameOf(job) ?? job.id);
    const mark = h('span', { class: 'zb-slot' });
    const note = h('span', { class: 'zb-small zb-mute zb-cut' });
    const title = url
      ? h('a', { class: 'zb-cut', href: url, target: '_blank', rel: 'noopener', title: name }, h('bdi', {}, name))
      : h('span', { class: 'zb-cut', title: name }, h('bdi', {}, name));
    const row = { li: h('li', {}, mark, title, note), mark, note, word: null };
    list.append(row.li);
    rows.set(job.id, row);
    return row;
  }

  return {
    el,
    sync() {
      for (const job of feed.parents) {
        const row = rows.get(job.id) ?? rowOf(job);
        const one = seen(feed, job);
        const word = wordOf(one);
        if (row.word !== word) {
          row.word = word;
          row.mark.replaceChildren(stateMark(faceOf(one), word));
        }
        const note = saysOf(feed, job) || '';
        if (row.note.textContent !== note) row.note.textContent = row.note.title = note;
      }
      const rest = (feed.job.spec.after?.length ?? 0) - feed.parents.length;
      more.hidden = rest <= 0;
      more.textContent = `and ${rest.toLocaleString('en')} more`;
    },
    dispose() {},
  };
}
