// Which way to take to the server: a page asks itself where it can, and through the kernel where it cannot, or where the
// server of its own knows nothing of what is to be shown. Nobody has to set anything.
import { PageServer, Refused, apiOfPage, askMany } from './ask.js';
import { KernelServer } from './kernel.js';

const PROBE_MS = 5_000;
const PAGE = 1000; // jobs asked for at once

/** @param {?Function} channel to the kernel, as `kernel.js` makes them; @param {object} saved as the notebook has it */
export function serverFor(channel, saved) {
  const api = apiOfPage();
  const ways = [api && new PageServer(api), channel && new KernelServer(channel)].filter(Boolean); // a page has one
  const jobs = saved.id ? [saved] : (saved.runs ?? saved.rows ?? []);
  return new Ways(ways, jobs.map(({ id }) => id), !saved.id && !saved.runs);
}

/** A server by the first way on which one is that knows any of the jobs; without jobs, on which there is one. */
export class Ways {
  #ways;
  #ids;
  #anyWill;
  #way = null;
  #choosing = null;

  /**
   * @param {object[]} ways servers, the best first
   * @param {string[]} ids of jobs
   * @param {boolean} anyWill whether one that knows none of the jobs will do if all are so
   */
  constructor(ways, ids, anyWill = false) {
    this.#ways = ways;
    this.#ids = ids;
    this.#anyWill = anyWill;
    if (ways.length === 1) this.#way = ways[0];
  }

  async ask(path, options) {
    return (await this.#chosen()).ask(path, options);
  }
  async read(path, first) {
    return (await this.#chosen()).read(path, first);
  }
  events(query) {
    return this.#way.events(query); // what there is was loaded before
  }
  urlOf(path) {
    return this.#way?.urlOf(path) ?? null;
  }
  pageOf(id) {
    return this.#way?.pageOf(id) ?? null;
  }
  homePage() {
    return this.#way?.homePage() ?? null;
  }
  stop() {
    for (const way of this.#ways) way.stop();
  }

  async #chosen() {
    if (this.#way) return this.#way;
    this.#choosing ??= this.#choose().finally(() => (this.#choosing = null));
    return this.#choosing;
  }
  /** Ask one way for what makes it the one; it throws what it answers else. */
  async #probe(way) {
    const ids = this.#ids;
    const patience = PROBE_MS;
    if (ids.length < 2) return void (await way.ask(ids.length ? `jobs/${ids[0]}` : 'overview', { patience }));
    for (let at = 0; at < ids.length; at += PAGE) {
      const [{ jobs }] = await askMany(way, 'lookup', ids.slice(at, at + PAGE), { patience });
      if (jobs.length) return;
    }
    throw new Refused(404, { error: { message: 'There is none of these jobs.' } });
  }
  async #choose() {
    const errors = [];
    for (const way of this.#ways) {
      try {
        await this.#probe(way);
        return (this.#way = way);
      } catch (error) {
        errors.push(error);
      }
    }
    // A kernel that is busy may know better once it is free.
    const silent = errors.find((error) => error.isSilent);
    if (silent) throw silent;
    if (this.#anyWill && errors[0].status === 404) return (this.#way = this.#ways[0]);
    throw errors[0];
  }
}
