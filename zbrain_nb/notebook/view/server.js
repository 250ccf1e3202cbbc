// The feed that needs no kernel: it reads the server directly, over HTTP and one WebSocket.
import { Refused, ask, ownSocket } from './ask.js';
import { Feed } from './feed.js';
import { LogLines } from './lines.js';
import { pulse } from './pulse.js';

const TAIL = 1000; // lines
const FIRST_WAIT_MS = 500;
const MAX_WAIT_MS = 30_000;
const PATIENCE_MS = 10_000;
const SKEW_MS = 3000; // the Date header counts in whole seconds

export class ServerFeed extends Feed {
  #api;
  #socket = null;
  #pulse = null;
  #turn = 0; // callbacks of an older connection find another number here and do nothing
  #tries = 0;
  #timer = null;
  #lastSeq = null;
  #buffer = null;
  #online = () => this.act('reconnect');

  constructor(api, saved) {
    super(saved);
    this.#api = api;
    addEventListener('online', this.#online);
  }

  start() {
    void this.#connect();
    return this;
  }

  stop() {
    removeEventListener('online', this.#online);
    this.#close();
  }

  artifactUrl(name) {
    return this.connection === 'unknown'
      ? null
      : `${this.#jobUrl()}/artifacts/${name.split('/').map(encodeURIComponent).join('/')}`;
  }

  /** The page of the job on the console. */
  get pageUrl() {
    return this.connection === 'unknown' ? null : `${this.#api.replace(/api\/$/, '')}jobs/${encodeURIComponent(this.job.id)}`;
  }

  async act(verb) {
    if (verb === 'reconnect') {
      if (this.connection === 'reconnecting') void this.#connect();
      return;
    }
    if (this.acting) return;
    this.acting = verb;
    this.problem = null;
    this.tell();
    try {
      if (verb === 'cancel') {
        const { job } = await this.#fetch(`${this.#jobUrl()}/cancel`, { method: 'POST' });
        if ((job.event_seq ?? 0) >= (this.job.event_seq ?? 0)) this.setJob(job);
        if (this.ended) this.#close();
      } else {
        this.#follow(await this.#fetch(`${this.#jobUrl()}/retry`, { method: 'POST' }));
      }
    } catch (error) {
      const what = verb === 'cancel' ? 'The job was not canceled' : 'The job was not run again';
      this.problem = `${what}: ${error instanceof Refused ? error.message : 'the server did not answer.'}`;
    }
    this.acting = null;
    this.tell();
  }

  // ---- connection

  async #connect() {
    this.#close();
    const turn = this.#turn;
    this.nextTryAt = null;
    this.#buffer = [];
    this.tell();
    // An ended job changes no more: fifty finished views on a page hold no socket.
    const needsNone = this.ended;
    const opened = !needsNone && (await this.#open(turn));
    if (turn !== this.#turn) return;
    try {
      // After a break the socket itself sends what was missed.
      if (this.#lastSeq == null || !opened) await this.#load(turn);
    } catch (error) {
      if (turn !== this.#turn) return;
      this.refusal = error instanceof Refused ? error.message : null;
      if (error.status !== 404) return this.#lose();
      this.#close();
      this.connection = 'unknown';
      return this.tell();
    }
    if (turn !== this.#turn) return;
    this.refusal = null;
    const buffered = this.#buffer;
    this.#buffer = null;
    for (const event of buffered) this.#take(event);
    if (turn !== this.#turn && !this.ended) return;
    if (this.ended) this.#close();
    else if (needsNone)
      return void this.#connect(); // the notebook said "ended", the server says otherwise
    else if (!this.#socket) return this.#lose();
    this.connection = 'live';
    this.#tries = 0;
    this.tell();
  }

  #open(turn) {
    const after = this.#lastSeq == null ? '' : `&after=${this.#lastSeq}`;
    const socket = new WebSocket(ownSocket(`${this.#api.replace(/^http/, 'ws')}events?topics=jobs/${this.job.id}${after}`));
    this.#socket = socket;
    this.#pulse = pulse(() => turn === this.#turn && this.#lose());
    return new Promise((resolve) => {
      setTimeout(() => resolve(false), PATIENCE_MS);
      socket.onopen = () => resolve(true);
      socket.onmessage = ({ data }) => {
        if (turn !== this.#turn) return;
        this.#pulse.beat();
        for (const event of JSON.parse(data)) this.#take(event);
        this.tell();
      };
      socket.onclose = () => {
        resolve(false);
        if (turn === this.#turn && !this.#buffer) this.#lose();
        else if (this.#socket === socket) this.#socket = null;
      };
    });
  }

  #take(event) {
    if (this.#buffer) return void this.#buffer.push(event);
    if (event.kind === 'reset') {
      this.#lastSeq = null;
      return void this.#connect();
    }
    this.#lastSeq = Math.max(this.#lastSeq ?? 0, event.seq);
    this.apply(event);
    if (!this.ended) return;
    this.#close();
    this.connection = 'live';
  }

  #lose() {
    if (this.connection === 'live') this.heardAt = this.#pulse?.at ?? Date.now();
    this.#close();
    this.connection = 'reconnecting';
    const wait = Math.min(MAX_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#tries) * (0.75 + Math.random() / 2);
    this.#tries += 1;
    this.nextTryAt = Date.now() + wait;
    this.#timer = setTimeout(() => void this.#connect(), wait);
    this.tell();
  }

  #close() {
    this.#turn += 1;
    clearTimeout(this.#timer);
    this.#pulse?.stop();
    this.#pulse = null;
    if (this.#socket) {
      this.#socket.onclose = null;
      this.#socket.close();
    }
    this.#socket = null;
    this.#buffer = null;
  }

  // ---- data

  async #load(turn) {
    const url = this.#jobUrl();
    // The outputs first: what the socket is asked for after a break then begins before all that is loaded here.
    const shown = await this.#fetch(`${url}/outputs`);
    const job = await this.#fetch(url);
    const lines = this.loaded
      ? this.log
      : new LogLines((from, limit, stream) => this.#range(from, limit, stream));
    await this.#fillLog(lines, job.log_lines);
    if (turn !== this.#turn) return;
    this.setJob(job);
    this.outputs = shown.outputs;
    this.outputsSeq = shown.event_seq ?? 0;
    this.log = lines;
    this.loaded = true;
    this.heardAt = Date.now();
    this.#lastSeq = Math.max(job.event_seq ?? 0, shown.event_seq ?? 0);
  }

  /** Read the newest of the `count` lines there were; those that come later come by the socket, which is open. */
  async #fillLog(lines, count = 0) {
    const from = Math.max(lines.end, count - TAIL);
    if (from < count) lines.add(await this.#range(from, count - from));
  }

  /** Up to `limit` lines, of however many pages: a page of long lines ends before it has as many. */
  async #range(from, limit, stream = '') {
    const found = [];
    for (let at = from; found.length < limit; ) {
      const query = `from_seq=${at}&limit=${limit - found.length}&stream=${stream}`;
      const { entries, next_seq: next } = await this.#lines(query);
      found.push(...entries);
      if (next === at || !entries.length) break;
      at = next;
    }
    return found;
  }

  #lines(query) {
    return this.#fetch(`${this.#jobUrl()}/logs?${query}`);
  }

  #jobUrl() {
    return `${this.#api}jobs/${encodeURIComponent(this.job.id)}`;
  }

  async #fetch(url, options = {}) {
    const [found, date] = await ask(url, { ...options, patience: 3 * PATIENCE_MS });
    if (date) this.clockSkew = Math.abs(date - Date.now()) > SKEW_MS ? date - Date.now() : 0;
    return found;
  }

  /** Show another job in place of this one: the one that repeats it. */
  #follow(job) {
    this.#close();
    this.setJob(job);
    this.loaded = false;
    this.outputs = [];
    this.outputsSeq = 0;
    this.log = new LogLines();
    this.#lastSeq = null;
    this.#tries = 0;
    void this.#connect();
  }
}
