// The lines of one job's log, as far as they are here: pages by `seq`, older ones fetched when they are looked at. So
// many are kept that a tab stays small however long the job writes; where none can be fetched, the oldest are gone.

const PAGE = 1000;
const MAX_PAGES = 50;
const MAX_CHARS = 20_000_000;
const NEAR = 2; // pages on both sides of what is looked at, which are kept
const SPAN = 10_000; // lines that are passed over at once

export class LogLines {
  /**
   * @param {?(from: number, limit: number, stream?: string) => Promise<object[]>} fetchLines
   *   null where no older lines can be had
   * @param {?(from: number, limit: number, text: string) => Promise<{entries: object[], next_seq: number}>} searchLines
   *   null where lines can only be looked through here
   */
  constructor(fetchLines = null, searchLines = null) {
    this.fetchLines = fetchLines;
    this.searchLines = searchLines;
    this.begin = 0;
    this.end = 0;
    this.stderr = 0;
    this.held = 0;
    this.chars = 0;
    this.firstMark = null;
    this.starts = []; // [seq, attempt] where a new attempt begins, in order
    this.pages = new Map();
    this.asked = new Map(); // by page: up to which line it was fetched
  }

  /** Take entries in any order; one that is here already changes nothing. */
  add(entries) {
    let added = false;
    for (const entry of entries) {
      const { seq } = entry;
      const index = Math.floor(seq / PAGE);
      let page = this.pages.get(index);
      if (!page) this.pages.set(index, (page = new Array(PAGE)));
      const place = seq % PAGE;
      if (page[place]) continue;
      page[place] = entry;
      added = true;
      this.held += 1;
      this.chars += entry.line.length;
      if (entry.stream === 'stderr') this.stderr += 1;
      if (isMark(entry)) this.firstMark = Math.min(seq, this.firstMark ?? seq);
      if (!this.fetchLines && (this.held === 1 || seq < this.begin)) this.begin = seq;
      if (seq >= this.end) this.end = seq + 1;
      const before = place > 0 ? page[place - 1] : this.get(seq - 1);
      const after = place < PAGE - 1 ? page[place + 1] : this.get(seq + 1);
      if (before ? before.attempt !== entry.attempt : seq === 0) this.#start(seq, entry.attempt);
      if (after && after.attempt !== entry.attempt) this.#start(seq + 1, after.attempt);
    }
    if (added) this.#evict();
    return added;
  }

  get(seq) {
    return this.pages.get(Math.floor(seq / PAGE))?.[seq % PAGE];
  }

  /** Keep what stands around this line, for somebody reads it. */
  lookAt(seq) {
    this.wanted = Math.floor(seq / PAGE);
  }

  /** Where rules between attempts stand; none while there was but one. */
  get rules() {
    return this.starts.length > 1 || this.starts[0]?.[0] > 0 ? this.starts : [];
  }

  get complete() {
    return this.held === this.end - this.begin;
  }

  /**
   * Fetch the page of this line and say whether lines have come; not if that was done, and the page has not grown since.
   * Rejects with what the fetching said.
   */
  async fetchAround(seq) {
    this.lookAt(seq);
    const index = this.wanted;
    const end = this.pageEnd(seq);
    if (!this.fetchLines || end <= this.asked.get(index)) return false;
    this.asked.set(index, Infinity); // by one at a time
    try {
      const entries = await this.fetchLines(index * PAGE, PAGE);
      this.asked.set(index, end);
      return this.add(entries);
    } catch (error) {
      this.asked.delete(index);
      throw error;
    }
  }

  /**
   * Lines from `from` on that are only passed over, and how far they go. Those that are here are taken as they are;
   * the others are fetched many at a time and not kept.
   *
   * @param {?string} stream lines of this one alone: the server skips what lies between
   */
  async pass(from, stream = null) {
    const { end } = this;
    const to = this.pageEnd(from);
    if (!this.fetchLines || this.holds(from, to)) {
      const held = Array.from({ length: to - from }, (_, i) => this.get(from + i));
      return { entries: held.filter((entry) => entry && (!stream || entry.stream === stream)), to };
    }
    const entries = await this.fetchLines(from, SPAN, stream ?? '');
    const last = entries.at(-1)?.seq ?? -1;
    return { entries, to: entries.length < SPAN ? Math.max(end, last + 1) : last + 1 };
  }

  /** The numbers of lines from `from` on that hold `text` (lower case), some of them, and how far was looked. */
  async find(from, text, limit) {
    const { end } = this;
    const { entries, next_seq: next } = await this.searchLines(from, limit, text);
    return { hits: entries.map(({ seq }) => seq).filter((seq) => seq < end), to: Math.min(next, end) };
  }

  /** Where the first traceback stands; without one, the first line on stderr; null if there is neither. */
  async firstError() {
    let first = null;
    for (let at = this.begin; at < (this.firstMark ?? this.end);) {
      const { entries, to } = await this.pass(at, 'stderr');
      first ??= entries[0]?.seq ?? null;
      const mark = entries.find(isMark);
      if (mark) return mark.seq;
      at = to;
    }
    return this.firstMark ?? first;
  }

  pageEnd(seq) {
    return Math.min(this.end, (Math.floor(seq / PAGE) + 1) * PAGE);
  }

  /** Whether all these lines are here. */
  holds(from, to) {
    for (let seq = from; seq < to; seq += 1) if (!this.get(seq)) return false;
    return true;
  }

  #start(seq, attempt) {
    if (this.starts.some(([at]) => at === seq)) return;
    this.starts.push([seq, attempt]);
    this.starts.sort((a, b) => a[0] - b[0]);
  }

  #evict() {
    const newest = Math.floor((this.end - 1) / PAGE);
    for (const index of this.pages.keys()) {
      if (this.pages.size <= MAX_PAGES && this.chars <= MAX_CHARS) return;
      if (index >= newest - 1 || (this.fetchLines && Math.abs(index - this.wanted) <= NEAR)) continue;
      this.#drop(index);
    }
  }

  #drop(index) {
    for (const entry of this.pages.get(index)) {
      if (!entry) continue;
      this.held -= 1;
      this.chars -= entry.line.length;
      if (entry.stream === 'stderr') this.stderr -= 1;
    }
    this.pages.delete(index);
    this.asked.delete(index);
    if (this.fetchLines) return;
    this.begin = Math.max(this.begin, (index + 1) * PAGE); // pages have come in order
    if (this.firstMark < this.begin) this.firstMark = null;
  }
}

export const isMark = (entry) =>
  entry.stream === 'stderr' && entry.line.length < 200 && entry.line.includes('Traceback (most recent call last)');
