// Acts on many jobs, as the dashboard and the view of a group ask for them: in lots that the server takes at once, and
// repeats under keys that are kept for each job until it is known what came of it. Who asks once more for what has lost
// its answer makes no second one, whatever was done to other jobs meanwhile.
import { newKey } from './ask.js';

const LOT = 1000; // jobs asked for at once

export class ManyActs {
  #server;
  #keys = new Map(); // by the id of the job that is repeated
  #seen = new Map(); // repeats of those that have come to light, by the same id

  constructor(server) {
    this.#server = server;
  }

  /** Do it to the jobs; yield what the server answers to each lot. `waits` is as of `KernelServer.ask`. */
  async *ask(verb, ids, waits) {
    for (const [key, lot] of this.#lotsOf(verb, ids)) {
      const [found] = await this.#server.ask(`jobs/${verb}`, { method: 'POST', body: { ids: lot }, key, waits });
      if (key) this.#forget(lot);
      yield found;
    }
  }

  /** Note a job that was not here before. */
  see(job) {
    if (this.#keys.has(job.retry_of)) this.#seen.set(job.retry_of, job);
  }
  /** Return the repeats that have come to light: what they repeat is repeated once more, if it is asked for now. */
  settle() {
    const found = [...this.#seen.values()];
    this.#forget([...this.#seen.keys()]);
    return found;
  }

  #forget(ids) {
    for (const id of ids) {
      this.#keys.delete(id);
      this.#seen.delete(id);
    }
  }

  #lotsOf(verb, ids) {
    const byKey = new Map();
    const fresh = newKey();
    for (const id of ids) {
      let key = null;
      if (verb === 'retry') {
        key = this.#keys.get(id) ?? fresh;
        this.#keys.set(id, key);
      }
      if (!byKey.has(key)) byKey.set(key, []);
      byKey.get(key).push(id);
    }
    const lots = [];
    for (const [key, all] of byKey) for (let at = 0; at < all.length; at += LOT) lots.push([key, all.slice(at, at + LOT)]);
    return lots;
  }
}

/** How many of repeated jobs an earlier request made, of which no answer came. */
export const countThere = (jobs) => jobs.filter(({ deduplicated }) => deduplicated).length;
