// The jobs of the same cell that went on when a job, or a group of them, was submitted: the feeds of both follow them
// beside their own, and the views of both offer to cancel them.
import { askMany } from './ask.js';
import { button, h, plural } from './elements.js';
import { ENDED, changedBy } from './feed.js';

const CELL_TAG = 'zbrain.cell';
const MOST_SINGLY = 100; // followed each by its own name

/** What a button says that runs a job again, where the cell above may have been edited. */
export const againTitle = (job) =>
  job?.spec?.tags?.[CELL_TAG] ? 'Runs the code as it was submitted; run the cell for what it says now' : null;

export class EarlierRuns {
  #server;

  /** @param {object} server where to ask; @param {string[] | string} ids as the notebook has them */
  constructor(server, ids = []) {
    this.#server = server;
    this.ids = [ids].flat();
    this.jobs = []; // as they are now
    this.asked = new Set(); // ids of those that were canceled here
  }

  get active() {
    return this.jobs.filter(({ state }) => !ENDED.has(state));
  }
  /** What to follow to learn what becomes of them. */
  get topics() {
    const { active } = this;
    if (active.length <= MOST_SINGLY) return active.map(({ id }) => `states/${id}`);
    return [...new Set(active.map(({ org_id: org }) => `orgs/${org}`))];
  }

  /** Ask how they stand: of ids, which any notebook may name, only those that are of the cell and the owner of a job. */
  async read({ owner, spec }) {
    const cell = spec.tags?.[CELL_TAG];
    if (!cell || !this.ids.length) return [];
    const [{ jobs }] = await askMany(this.#server, 'lookup', this.ids);
    return jobs.filter((job) => job.owner === owner && job.spec.tags?.[CELL_TAG] === cell);
  }

  async cancel(waits) {
    const ids = this.active.map(({ id }) => id);
    this.asked = new Set(ids); // also if the answer is lost: what the next load shows is then told as its outcome
    const [{ jobs }] = await askMany(this.#server, 'cancel', ids, { waits });
    const now = new Map(jobs.map((job) => [job.id, job]));
    const newer = (job, old) => (job && (job.event_seq ?? 0) >= (old.event_seq ?? 0) ? job : old);
    this.jobs = this.jobs.map((old) => newer(now.get(old.id), old));
  }

  take(event) {
    this.jobs = this.jobs.map((job) => changedBy(event, job));
  }
}

/** That some go on beside what a feed is of, and how many can be canceled; or what came of that; else null. */
export function sameCellOf({ earlier, connection }) {
  if (connection !== 'live') return null; // they are not followed
  const { active } = earlier;
  const open = active.filter((job) => !job.cancel_requested_at);
  if (open.length) {
    const states = new Set(open.map(({ state }) => state));
    const still = states.size === 1 ? [...states][0] : 'active';
    const one = open.length === 1;
    return { text: `${one ? 'An earlier run' : plural(open.length, 'earlier run')} of this cell ${one ? 'is' : 'are'} still ${still}.`, count: open.length };
  }
  if (!earlier.asked.size) return null;
  return { text: canceledOf(earlier.jobs.filter(({ id }) => earlier.asked.has(id)), active.length), count: 0 };
}
function canceledOf(asked, active) {
  const one = asked.length === 1;
  const which = `${one ? 'The earlier run' : plural(asked.length, 'earlier run')} of this cell`;
  if (active) return `${which} ${one ? 'is' : 'are'} being canceled.`;
  const canceled = asked.filter(({ state }) => state === 'canceled').length;
  if (canceled === asked.length) return `${which} ${one ? 'was' : 'were'} canceled.`;
  if (!canceled) return `${which} had ended before ${one ? 'it' : 'they'} could be canceled.`;
  return `Of ${which}, ${canceled.toLocaleString('en')} ${canceled === 1 ? 'was' : 'were'} canceled; the others had ended before.`;
}

/** What came of the cancel, as who cannot see it must not miss it. */
export function sameCellAnswerOf(feed) {
  const { text, count } = sameCellOf(feed) ?? {};
  return count === 0 ? text : '';
}

/** What `sameCellOf` returns, as a notice; `disabled` while the feed would not act. */
export function sameCellNotice({ text, count, disabled }, feed) {
  const label = count === 1 ? 'Cancel the earlier' : `Cancel the ${count.toLocaleString('en')} earlier`;
  const cancel = count > 0 && button(label, { disabled, onclick: () => feed.act('cancel_earlier') });
  return h('div', { class: 'zb-notice' }, h('span', {}, text), cancel);
}
