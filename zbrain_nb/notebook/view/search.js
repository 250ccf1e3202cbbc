// What is looked for in a log, over lines that are not loaded too: one walk from its first line to its last, which
// goes on when lines arrive. The server looks through what is not here. It knows nothing of the page; `log.js` asks it
// what to show.
import { plainText } from './text.js';

const BREATH = 20; // steps between two pauses, in which the page can paint
const FIRST_HITS = 100; // asked of the server: few at first, so that the first is soon seen
const MORE_HITS = 1000;
const MOST_AHEAD = 10_000; // hits behind the one that is stepped to; the walk goes on when one comes near
const pause = () => new Promise((resolve) => setTimeout(resolve));

export class LogSearch {
  #store;
  #turn = 0; // a walk that finds another number here has been overtaken
  #busy = false;
  #stopped = false; // lines could not be had; the walk goes on from there when it is asked to again
  #at = 0;
  #hits = [];
  #current = -1;
  #onHit;
  #tell;

  /**
   * @param {LogLines} store
   * @param {(seq: number) => void} onHit called with the first hit, and with each that is stepped to
   * @param {() => void} tell called when more was found
   */
  constructor(store, onHit, tell) {
    this.#store = store;
    this.#onHit = onHit;
    this.#tell = tell;
    this.query = ''; // in lower case
    this.only = false; // lines of stderr alone
    this.stderr = []; // their numbers, as far as the walk has come
  }

  /** Begin anew, at line `from`. */
  start(query, only, from) {
    this.stop();
    this.query = query;
    this.only = only;
    this.stderr = [];
    this.#hits = [];
    this.#current = -1;
    this.#at = from;
    void this.walk();
  }

  stop() {
    this.#turn += 1;
    this.#busy = this.#stopped = false;
  }

  /** Look through what has not been looked through yet. */
  async walk() {
    if (this.#busy || !(this.query || this.only)) return;
    const turn = this.#turn;
    this.#busy = true;
    for (let steps = 1; this.#at < this.#store.end && !this.#isAhead; steps += 1) {
      const found = await this.#look().catch(() => null);
      if (steps % BREATH === 0) await pause();
      if (turn !== this.#turn) return;
      this.#stopped = !found;
      if (!found) break;
      for (const seq of found.hits) this.#hits.push(seq);
      this.#at = found.to;
      if (this.#current < 0) this.step(1);
      this.#tell();
    }
    this.#busy = false;
    this.#tell();
  }

  get #isAhead() {
    return this.#hits.length - this.#current > MOST_AHEAD;
  }

  /** Look a little further; return what was hit, and up to where it is known. */
  async #look() {
    const store = this.#store;
    if (!this.only && store.searchLines && !store.holds(this.#at, store.pageEnd(this.#at)))
      return store.find(this.#at, this.query, this.#hits.length ? MORE_HITS : FIRST_HITS);
    const { entries, to } = await store.pass(this.#at, this.only ? 'stderr' : null);
    const wanted = this.only ? entries.filter(({ stream }) => stream === 'stderr') : entries;
    if (this.only) this.stderr.push(...wanted.map(({ seq }) => seq));
    const hits = this.query ? wanted.filter(({ line }) => plainText(line).toLowerCase().includes(this.query)) : [];
    return { hits: hits.map(({ seq }) => seq), to };
  }

  step(by) {
    const { length } = this.#hits;
    if (!length) return;
    this.#current = (this.#current + by + length) % length;
    this.#onHit(this.hit);
    void this.walk();
  }

  /** The line that was stepped to. */
  get hit() {
    return this.#hits[this.#current];
  }

  /** What was found, in words; empty while nothing is looked for. */
  get words() {
    if (!this.query) return '';
    const open = this.#at < this.#store.end ? '+' : '';
    const upTo = this.#stopped ? `, searched up to line ${this.#at.toLocaleString('en')}` : '';
    const [at, count] = [this.#current + 1, this.#hits.length].map((number) => number.toLocaleString('en'));
    const said = this.#hits.length ? `${at} of ${count}${open}` : this.#busy ? 'searching' : 'no match';
    return said + upTo;
  }
}
