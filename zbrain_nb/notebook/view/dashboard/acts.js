// What is asked on the dashboard to be done to jobs, and what is known to have come of it. An act keeps to its org: it
// may be answered, or told of once more, when another is shown. `jobsfeed.js` asks for acts, and tells of them.
import { failedAct } from '../ask.js';
import { ManyActs } from '../many.js';

const NOT_DONE = {
  cancel: 'Not all jobs were canceled',
  retry: 'Not all jobs were tried again',
};

/**
 * @typedef {object} Act
 * @property {string} org where it was asked for
 * @property {string} verb "cancel" or "retry"
 * @property {string[]} ids of the jobs that it was asked for
 * @property {object[]} jobs that are known to have come of it
 * @property {boolean} isWhole whether all is known to be done
 * @property {?string} problem why it is not
 * @property {boolean} isUnsure whether only its answer was lost
 */
const newAct = (org, verb, ids) => ({ org, verb, ids, jobs: [], isWhole: false, problem: null, isUnsure: false });

export class Acts {
  #feed;
  #many;
  #unsure = new Map(); // by org: the last act whose answer was lost, until all of that org is loaded after it

  /** @param {object} feed has the `org` that is shown, its `rows`, and the `viewer` */
  constructor(feed, server) {
    this.#feed = feed;
    this.#many = new ManyActs(server);
  }

  /** What was told of an act in the org that is shown, if its answer was lost. */
  get told() {
    return this.#unsure.get(this.#feed.org)?.problem ?? null;
  }

  /** Do it to jobs of the org that is shown; `take` gets those that come of it. Return the `Act`. */
  async ask(verb, ids, waits, take) {
    const { org, rows } = this.#feed;
    const act = newAct(org, verb, ids);
    const newest = [...rows.keys()].reduce((one, other) => (one > other ? one : other), '');
    try {
      for await (const { jobs } of this.#many.ask(verb, ids, waits, newest)) {
        take(jobs);
        act.jobs.push(...jobs);
      }
      act.isWhole = true;
      this.#answer(act);
    } catch (error) {
      const { text, isUnsure } = failedAct(error, NOT_DONE[verb]);
      Object.assign(act, { problem: text, isUnsure });
      if (isUnsure) this.#unsure.set(org, { ...act });
    }
    return act;
  }

  /** What was done now is unsure no more. */
  #answer({ org, ids }) {
    const unsure = this.#unsure.get(org);
    if (!unsure) return;
    const answered = new Set(ids);
    unsure.ids = unsure.ids.filter((id) => !answered.has(id));
    if (!unsure.ids.length) this.#unsure.delete(org);
  }

  /** Return the act whose answer was lost with what the rows show of it, which are all of its org; null without one. */
  resolve() {
    const { org, rows } = this.#feed;
    const unsure = this.#unsure.get(org);
    if (!unsure) return null;
    this.#unsure.delete(org);
    const { verb, ids, jobs } = unsure;
    const isStopped = (row) => row && (row.state === 'canceled' || row.cancel_requested_at);
    const stopped = () => ids.map((id) => rows.get(id)).filter(isStopped);
    return { ...unsure, jobs: verb === 'retry' ? [...jobs, ...this.#settle()] : stopped() };
  }

  /** Return an act with the repeats that have come to light after that; null without any. */
  late() {
    const { org } = this.#feed;
    const jobs = this.#unsure.has(org) ? [] : this.#settle();
    return jobs.length ? { ...newAct(org, 'retry', []), jobs } : null;
  }

  #settle() {
    return this.#many.settle(this.#feed.rows.values(), this.#feed.viewer);
  }
}
