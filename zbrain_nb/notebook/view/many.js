// Acts on many jobs, as the dashboard and the view of a group ask for them: in lots that the server takes at once, and
// repeats under keys that are kept for each job until it is known what came of it. Who asks once more for what has lost
// its answer makes no second one, whatever was done to other jobs meanwhile.
import { isTooMany, newKey } from './ask.js';

const LOT = 1000; // jobs asked for at once

export class ManyActs {
  #server;
  #keys = new Map(); // by the id of the job that is repeated: the key, and the newest job there was before

  constructor(server) {
    this.#server = server;
  }

  /**
   * Do it to the jobs; yield what the server answers to each lot.
   * @param {?function(string)} waits as of `KernelServer.ask`
   * @param {?string} newest id of the newest job there is, for `settle`
   */
  async *ask(verb, ids, waits, newest = null) {
    const lots = this.#lotsOf(verb, ids, newest);
    while (lots.length) {
      const [key, lot] = lots.shift();
      try {
        const [found] = await this.#server.ask(`jobs/${verb}`, { method: 'POST', body: { ids: lot }, key, waits });
        if (key) this.#forget(lot);
        yield found;
      } catch (error) {
        if (!isTooMany(error, lot)) throw error;
        const half = lot.length >> 1;
        lots.unshift([key, lot.slice(0, half)], [key, lot.slice(half)]);
      }
    }
  }

  /**
   * Return those of the jobs of an owner by which a lost answer comes to light: repeats that were made since they were
   * first asked for. What they repeat is repeated once more, if it is asked for now.
   */
  settle(jobs, owner) {
    if (!this.#keys.size) return [];
    const found = new Map();
    for (const job of jobs) {
      const asked = this.#keys.get(job.retry_of);
      // Ids sort by the time they were made.
      if (asked && job.owner === owner && job.id > asked.newest) found.set(job.retry_of, job);
    }
    this.#forget(found.keys());
    return [...found.values()];
  }

  #forget(ids) {
    for (const id of ids) this.#keys.delete(id);
  }

  #lotsOf(verb, ids, newest) {
    const fresh = { key: newKey(), newest };
    const byKey = new Map();
    for (const id of ids) {
      const asked = verb === 'retry' ? (this.#keys.get(id) ?? fresh) : null;
      if (asked) this.#keys.set(id, asked);
      if (!byKey.has(asked)) byKey.set(asked, []);
      byKey.get(asked).push(id);
    }
    const lots = [];
    for (const [asked, all] of byKey) {
      for (let at = 0; at < all.length; at += LOT) lots.push([asked?.key, all.slice(at, at + LOT)]);
    }
    return lots;
  }
}

/** How many of repeated jobs an earlier request made, of which no answer came. */
export const countThere = (jobs) => jobs.filter(({ deduplicated }) => deduplicated).length;
