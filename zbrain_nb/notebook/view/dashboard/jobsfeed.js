// What the dashboard reads: the newest jobs of an org as rows, kept up to date by one socket, and the overview that
// stands above them, asked for now and then. It holds a bounded number of rows, each without what no row shows.
import { Refused, ask, ownSocket } from '../ask.js';
import { ENDED, nameOf } from '../feed.js';
import { pulse } from '../pulse.js';

const FIRST_PAGE = 200;
const PAGE = 1000;
export const MOST_ROWS = 10_000;
const SPARE_ROWS = 500; // rows above `MOST_ROWS` that are let in before the oldest go
const OVERVIEW_MS = 5_000;
const LOOK_UP_MS = 200;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 30_000;
const MAX_TEXT = 300;
const FIELDS = [
  'owner',
  'state',
  'attempt',
  'created_at',
  'started_at',
  'finished_at',
  'worker_id',
  'exit_code',
  'progress',
  'reason',
  'retry_of',
  'losses',
  'not_before',
  'cancel_requested_at',
  'canceled_by',
];
const ACTIVE = ['running', 'retrying', 'pending'];

/** A job, or a patch of one, as a row keeps it. */
function trimmed(data) {
  const row = {};
  for (const name of FIELDS) if (name in data) row[name] = data[name];
  if (data.spec) {
    const { worker, tags, max_retries } = data.spec;
    row.spec = { worker, tags: tags ?? {}, max_retries };
    row.name = nameOf(data);
  }
  if (data.error) row.error = { ename: data.error.ename, evalue: String(data.error.evalue ?? '').slice(0, MAX_TEXT) };
  return row;
}

export class JobsFeed {
  #api;
  #listeners = new Set();
  #socket = null;
  #pulse = null;
  #turn = 0; // callbacks of an older connection find another number here and do nothing
  #tries = 0;
  #timers = {};
  #unknown = new Set();
  #seen = () => document.hidden || void this.#readOverview();

  /**
   * @param {?string} api where to ask; null where no server can be reached
   * @param {object} saved what a notebook holds: the org, the newest rows, and when they were read
   */
  constructor(api, { org = null, rows = [], saved_at: savedAt = null } = {}) {
    this.#api = api;
    this.org = org;
    this.rows = new Map(rows.map((row) => [row.id, row])); // by id
    this.savedAt = savedAt;
    this.version = 0; // grows whenever a row changes
    this.overview = null;
    this.counts = {};
    this.connection = 'opening'; // or "live", "reconnecting" (tries again), "saved" (there is no server to ask)
    this.complete = false; // whether `rows` are all jobs there are
    this.loading = false;
    this.heardAt = null;
    this.nextTryAt = null;
    this.refusal = null;
    this.problem = null;
    this.acting = null;
    this.clockSkew = 0;
  }

  get now() {
    return Date.now() + this.clockSkew;
  }
  /** All jobs of the org, by the server's count. */
  get total() {
    return Object.values(this.counts).reduce((sum, count) => sum + count, 0);
  }

  start() {
    if (!this.#api) {
      this.connection = 'saved';
      this.#countSaved();
      return this;
    }
    document.addEventListener('visibilitychange', this.#seen);
    this.#timers.overview = setInterval(this.#seen, OVERVIEW_MS);
    void this.#connect();
    return this;
  }
  stop() {
    document.removeEventListener('visibilitychange', this.#seen);
    clearInterval(this.#timers.overview);
    clearTimeout(this.#timers.lookup);
    this.#close();
  }
  on(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
  tell() {
    for (const listener of this.#listeners) listener();
  }

  /** Take rows that a kernel read, where the server cannot be asked. */
  refill({ org, rows, saved_at: savedAt }) {
    if (this.connection !== 'saved') return;
    this.#forget();
    this.org = org;
    this.savedAt = savedAt;
    for (const row of rows) this.#set(row);
    this.#countSaved();
    this.tell();
  }
  #countSaved() {
    for (const { state } of this.rows.values()) this.counts[state] = (this.counts[state] ?? 0) + 1;
  }

  /** Show another org. */
  choose(org) {
    this.org = org;
    this.#forget();
    void this.#connect();
  }

  async act(verb, ids) {
    if (verb === 'reconnect') return void this.#connect();
    if (this.acting || !ids.length) return;
    this.acting = verb;
    this.problem = null;
    this.tell();
    try {
      for (let at = 0; at < ids.length; at += PAGE) {
        const body = { ids: ids.slice(at, at + PAGE) };
        const [{ jobs }] = await ask(`${this.#api}jobs/${verb}`, { method: 'POST', body });
        for (const job of jobs) this.#put(job);
      }
    } catch (error) {
      const what = verb === 'cancel' ? 'Not all jobs were canceled' : 'Not all jobs were tried again';
      this.problem = `${what}: ${error instanceof Refused ? error.message : 'the server did not answer.'}`;
    }
    this.acting = null;
    this.tell();
    void this.#readOverview();
  }

  /** Fetch older jobs that fit, when not all are here. */
  async find({ state, q }) {
    if (!this.#api || this.complete || !(state || q)) return;
    const query = new URLSearchParams({ ...(state && { state }), ...(q && { q }) });
    try {
      await this.#readPage(this.#turn, String(query), PAGE);
      this.tell();
    } catch (error) {
      this.problem = `Older jobs could not be looked for: ${error instanceof Refused ? error.message : 'the server did not answer.'}`;
      this.tell();
    }
  }

  // ---- connection

  async #connect() {
    this.#close();
    const turn = this.#turn;
    this.nextTryAt = null;
    this.loading = true;
    this.tell();
    try {
      const seq = await this.#readOverview(turn);
      let cursor = await this.#readPage(turn, '', FIRST_PAGE);
      if (turn !== this.#turn) return;
      this.#open(turn, seq);
      this.connection = 'live';
      this.refusal = null;
      this.#tries = 0;
      this.tell();
      for (const state of ACTIVE) await this.#readPage(turn, `state=${state}`, PAGE);
      while (cursor && turn === this.#turn && this.rows.size < MOST_ROWS) {
        cursor = await this.#readPage(turn, `cursor=${cursor}`, Math.min(PAGE, MOST_ROWS - this.rows.size));
        this.tell();
      }
      if (turn !== this.#turn) return;
      this.complete = !cursor;
      this.loading = false;
      this.tell();
    } catch (error) {
      if (turn !== this.#turn) return;
      this.refusal = error instanceof Refused ? error.message : null;
      this.#lose();
    }
  }

  async #readOverview(turn = this.#turn) {
    const query = this.org == null ? '' : `?org=${encodeURIComponent(this.org)}`;
    let found;
    try {
      const [overview, date] = await ask(`${this.#api}overview${query}`);
      found = overview;
      if (date) this.clockSkew = Math.abs(date - Date.now()) > 3000 ? date - Date.now() : 0;
    } catch (error) {
      if (this.loading) throw error;
      return null; // the socket tells whether the server is there
    }
    if (turn !== this.#turn) return found.event_seq;
    this.org = found.org_id;
    this.overview = found;
    this.counts = { ...found.states };
    this.tell();
    return found.event_seq;
  }

  async #readPage(turn, query, limit) {
    const org = encodeURIComponent(this.org);
    const [{ jobs, next_cursor: cursor }] = await ask(`${this.#api}jobs?brief=1&org=${org}&limit=${limit}&${query}`);
    if (turn !== this.#turn) return null;
    for (const row of jobs) this.#keep(row);
    this.#bound();
    return cursor;
  }

  #open(turn, seq) {
    const topic = encodeURIComponent(`orgs/${this.org}`);
    const socket = new WebSocket(ownSocket(`${this.#api.replace(/^http/, 'ws')}events?topics=${topic}&after=${seq}`));
    this.#socket = socket;
    this.#pulse = pulse(() => turn === this.#turn && this.#lose());
    socket.onmessage = ({ data }) => {
      if (turn !== this.#turn) return;
      this.#pulse.beat();
      this.heardAt = Date.now();
      for (const event of JSON.parse(data)) this.#take(event);
      this.#bound();
      this.tell();
    };
    socket.onclose = () => {
      if (turn === this.#turn) this.#lose();
    };
  }

  #take({ kind, seq, job_id: id, data }) {
    if (kind === 'reset') {
      this.#forget();
      return void this.#connect();
    }
    if (!id || kind === 'job_logged' || kind === 'job_displayed') return;
    const row = this.rows.get(id);
    if (kind === 'job_submitted') {
      if (row) return;
      this.#put({ ...data, id, event_seq: seq });
      this.#count(seq, null, data.state);
    } else if (!row) this.#lookUp(id);
    else if (seq > (row.event_seq ?? 0)) {
      const now = { ...row, ...trimmed(data), event_seq: seq };
      this.#set(now);
      this.#count(seq, row.state, now.state);
    }
  }

  /** Note what the overview had not counted yet; the next one puts right what is not known here. */
  #count(seq, before, after) {
    if (!this.overview || seq <= this.overview.event_seq || before === after) return;
    if (before) this.counts[before] -= 1;
    this.counts[after] = (this.counts[after] ?? 0) + 1;
  }

  /** Ask for jobs that events tell of and that are not here, a moment later and together. */
  #lookUp(id) {
    this.#unknown.add(id);
    this.#timers.lookup ??= setTimeout(async () => {
      this.#timers.lookup = null;
      const ids = [...this.#unknown].slice(0, PAGE);
      this.#unknown.clear();
      try {
        const [{ jobs }] = await ask(`${this.#api}jobs/lookup`, { method: 'POST', body: { ids } });
        for (const job of jobs) if (!ENDED.has(job.state)) this.#put(job);
        this.tell();
      } catch {
        // The next event of the job asks again.
      }
    }, LOOK_UP_MS);
  }

  #lose() {
    if (this.connection === 'live') this.heardAt = this.#pulse?.at ?? Date.now();
    this.#close();
    this.loading = false;
    this.connection = 'reconnecting';
    const wait = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#tries) * (0.75 + Math.random() / 2);
    this.#tries += 1;
    this.nextTryAt = Date.now() + wait;
    this.#timers.retry = setTimeout(() => void this.#connect(), wait);
    this.tell();
  }

  #close() {
    this.#turn += 1;
    clearTimeout(this.#timers.retry);
    this.#pulse?.stop();
    if (this.#socket) {
      this.#socket.onclose = null;
      this.#socket.close();
    }
    this.#socket = null;
  }

  // ---- rows

  #put(job) {
    this.#keep({ id: job.id, event_seq: job.event_seq, ...trimmed(job) });
  }
  #keep(row) {
    const old = this.rows.get(row.id);
    if (old && (old.event_seq ?? 0) > (row.event_seq ?? 0)) return;
    this.#set(row);
  }
  #set(row) {
    this.rows.set(row.id, row);
    this.version += 1;
  }
  #bound() {
    if (this.rows.size <= MOST_ROWS + SPARE_ROWS) return;
    const ids = [...this.rows.keys()].sort(); // ids grow with time
    for (const id of ids) {
      if (this.rows.size <= MOST_ROWS) break;
      if (ENDED.has(this.rows.get(id).state)) this.rows.delete(id);
    }
    this.complete = false;
    this.version += 1;
  }
  #forget() {
    this.rows.clear();
    this.version += 1;
    this.overview = null;
    this.counts = {};
    this.complete = false;
  }
}
