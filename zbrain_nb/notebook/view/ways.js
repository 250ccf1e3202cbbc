// Which way to take to the server: a page asks itself where it can, and through the kernel where it cannot, or where the
// server of its own knows nothing of what is to be shown. Nobody has to set anything.
import { PageServer, apiOfPage } from './ask.js';
import { KernelServer } from './kernel.js';

const PROBE_MS = 5_000;

/** @param {?Function} channel to the kernel, as `kernel.js` makes them; @param {object} saved as the notebook has it */
export function serverFor(channel, saved) {
  const api = apiOfPage();
  const ways = [api && new PageServer(api), channel && new KernelServer(channel)].filter(Boolean); // a page has one
  const known = saved.id ?? (saved.runs ?? saved.rows)?.[0]?.id;
  return new Ways(ways, known ? `jobs/${known}` : 'overview', !saved.id && !saved.runs);
}

/** A server by the first way on which it answers to `probe`. */
export class Ways {
  #ways;
  #probe;
  #anyWill;
  #way = null;
  #choosing = null;

  /** @param {boolean} anyWill whether one that does not know the probe will do if none does */
  constructor(ways, probe, anyWill = false) {
    this.#ways = ways;
    this.#probe = probe;
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
  stop() {
    for (const way of this.#ways) way.stop();
  }

  async #chosen() {
    if (this.#way) return this.#way;
    this.#choosing ??= this.#choose().finally(() => (this.#choosing = null));
    return this.#choosing;
  }
  async #choose() {
    const errors = [];
    for (const way of this.#ways) {
      try {
        await way.ask(this.#probe, { patience: PROBE_MS });
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
