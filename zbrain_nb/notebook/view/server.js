// The feed that needs no kernel: it reads the server directly, over HTTP and one WebSocket.
import { Refused, ask } from './ask.js';
import { Connection, Unknown } from './connection.js';
import { Feed } from './feed.js';
import { LogLines } from './lines.js';

const TAIL = 1000; // lines
const SKEW_MS = 3000; // the Date header counts in whole seconds

export class ServerFeed extends Feed {
  #api;
  #connection;

  constructor(api, saved) {
    super(saved);
    this.#api = api;
    this.#connection = new Connection(this, api, {
      topic: () => `jobs/${this.job.id}`,
      load: (current) => this.#load(current),
      take: (event) => this.apply(event),
    });
  }

  start() {
    void this.#connection.connect();
    return this;
  }

  stop() {
    this.#connection.close();
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
    if (verb === 'reconnect') return void this.#connection.resume();
    if (this.acting) return;
    this.acting = verb;
    this.problem = null;
    this.tell();
    try {
      if (verb === 'cancel') {
        const { job } = await this.#fetch(`${this.#jobUrl()}/cancel`, { method: 'POST' });
        if ((job.event_seq ?? 0) >= (this.job.event_seq ?? 0)) this.setJob(job);
        if (this.ended) this.#connection.close();
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

  // ---- data

  async #load(current) {
    const url = this.#jobUrl();
    // The outputs first: what is followed from their number on then begins before all that is loaded here.
    const shown = await this.#fetch(`${url}/outputs`).catch(unknownIfMissing);
    const job = await this.#fetch(url).catch(unknownIfMissing);
    const lines = this.loaded
      ? this.log
      : new LogLines((from, limit, stream) => this.#range(from, limit, stream));
    await this.#fillLog(lines, job.log_lines);
    if (!current()) return null;
    this.setJob(job);
    this.outputs = shown.outputs;
    this.outputsSeq = shown.event_seq;
    this.log = lines;
    this.loaded = true;
    return shown.event_seq;
  }

  /** Read the newest of the `count` lines there were; those that come later come by the socket. */
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
    const [found, date] = await ask(url, options);
    if (date) this.clockSkew = Math.abs(date - Date.now()) > SKEW_MS ? date - Date.now() : 0;
    return found;
  }

  /** Show another job in place of this one: the one that repeats it. */
  #follow(job) {
    this.#connection.close();
    this.setJob(job);
    this.loaded = false;
    this.outputs = [];
    this.outputsSeq = 0;
    this.log = new LogLines();
    void this.#connection.connect();
  }
}

function unknownIfMissing(error) {
  throw error.status === 404 ? new Unknown(error.message) : error;
}
