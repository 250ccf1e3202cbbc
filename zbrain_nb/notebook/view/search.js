// What is looked for in a log, over lines that are not loaded too: one walk from its first line to its last, which
// goes on when lines arrive. It knows nothing of the page; `log.js` asks it what to show.
import { plainText } from './text.js';

const BREATH = 20; // steps between two pauses, in which the page can paint
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
    for (let steps = 1; this.#at < this.#store.end; steps += 1) {
      const found = await this.#store.pass(this.#at, this.only ? 'stderr' : null).catch(() => null);
      if (steps % BREATH === 0) await pause();
      if (turn !== this.#turn) return;
      this.#stopped = !found;
      if (!found) break;
      found.entries.forEach((entry) => this.#look(entry));
      this.#at = found.to;
      if (this.#current < 0) this.step(1);
      this.#tell();
    }
    this.#busy = false;
    this.#tell();
  }

  #look({ seq, stream, line }) {
    if (stream === 'stderr') this.stderr.push(seq);
    else if (this.only) return;
    if (this.query && plainText(line).toLowerCase().includes(this.query)) this.#hits.push(seq);
  }

  step(by) {
    const { length } = this.#hits;
    if (!length) return;
    this.#current = (this.#current + by + length) % length;
    this.#onHit(this.hit);
  }

  /** The line that was stepped to. */
  get hit() {
    return this.#hits[this.#current];
  }

  /** What was found, in words; empty while nothing is looked for. */
  get words() {
    if (!this.query) return '';
    const open = this.#busy || this.#stopped ? '+' : '';
    const upTo = this.#stopped ? `, searched up to line ${this.#at.toLocaleString('en')}` : '';
    const count = this.#hits.length.toLocaleString('en');
    const said = this.#hits.length ? `${this.#current + 1} of ${count}${open}` : this.#busy ? 'searching' : 'no match';
    return said + upTo;
  }
}
