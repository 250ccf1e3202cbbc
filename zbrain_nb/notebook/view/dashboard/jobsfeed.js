// What the dashboard reads: the newest jobs of an org as rows, kept up to date by one socket, and the overview that
// stands above them, asked for now and then. It holds a bounded number of rows, each without what no row shows.
import { Refused, askMany, serverAt } from '../ask.js';
import { Connection, Unknown } from '../connection.js';
import { ENDED, nameOf } from '../feed.js';
import { Acts } from './acts.js';

const FIRST_PAGE = 200;
const PAGE = 1000;
export const MOST_ROWS = 10_000;
const SPARE_ROWS = 500; // rows above `MOST_ROWS` that are let in before others go
const OVERVIEW_MS = 5_000;
const LOOK_UP_MS = 200;
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
  #server;
  #listeners = new Set();
  #connection;
  #timers = {};
  #isLooking = false;
  #unknown = new Set();
  #asking = new Set(); // for each overview that is asked for: the changes of states told since
  #wanted = null; // what older jobs are looked for by
  #found = new Set(); // ids of those, which stay here while they are wanted
  #acts;
  #old = new Set(); // ids of rows that were here before all is loaded, and have not come again
  #seen = () => document.hidden || void this.#lookOver();

  /**
   * @param {string | object} server where to ask: the address of the API, or what is a server already
   * @param {object} saved what a notebook holds: the org and the newest rows
   */
  constructor(server, { org = null, rows = [] } = {}) {
    this.#server = serverAt(server);
    this.#acts = new Acts(this, this.#server);
    this.org = org;
    this.rows = new Map(rows.map((row) => [row.id, row])); // by id
    this.version = 0; // grows whenever a row changes
    this.overview = null;
    this.viewer = null; // as whom the server sees who looks
    this.home = null; // the org of the viewer's own
    this.counts = {};
    this.connection = 'opening'; // or "live", "reconnecting" (tries again), "unknown" (no org of who looks)
    this.complete = false; // whether `rows` are all jobs there are
    this.moreFit = false; // whether older jobs fit than those that were looked for and found
    this.loading = false;
    this.heardAt = null;
    this.nextTryAt = null;
    this.refusal = null;
    this.problem = null;
    this.acting = null;
    this.outcome = null; // the last act, as `acts.js` has it; another object as soon as more of it is known
    this.clockSkew = 0;
    this.#connection = new Connection(this, this.#server, {
      topic: () => `orgs/${this.org}`,
      load: (current) => this.#load(current),
      take: (event) => this.#take(event),
      forget: () => this.#forget(),
    });
  }

  get now() {
    return Date.now() + this.clockSkew;
  }
  /** All jobs of the org, by the server's count. */
  get total() {
    return Object.values(this.counts).reduce((sum, count) => sum + count, 0);
  }

  start() {
    document.addEventListener('visibilitychange', this.#seen);
    this.#timers.overview = setInterval(this.#seen, OVERVIEW_MS);
    void this.#connection.connect();
    return this;
  }
  stop() {
    document.removeEventListener('visibilitychange', this.#seen);
    clearInterval(this.#timers.overview);
    clearTimeout(this.#timers.lookup);
    this.#connection.close();
  }
  on(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
  /** Say that something changed. A batch of events is told once, so what it does to all rows is done here. */
  tell() {
    this.#bound();
    for (const listener of this.#listeners) listener();
    const late = this.acting ? null : this.#acts.late();
    if (!late) return;
    this.outcome = late;
    for (const listener of this.#listeners) listener();
  }

  /** Show another org. */
  choose(org) {
    this.org = org;
    this.problem = this.#acts.told;
    this.outcome = null;
    this.#forget();
    void this.#connection.connect();
  }

  /**
   * Cancel jobs or submit them again. `outcome` is then the act, whatever org is shown by then. Where an answer was lost,
   * it is told once more when all of its org is loaded, and whenever something comes to light later.
   */
  async act(verb, ids) {
    if (this.acting || !ids.length) return;
    this.acting = verb;
    this.problem = null;
    this.tell();
    let told = null;
    const waits = (why) => {
      this.problem = told = why;
      this.tell();
    };
    const act = await this.#acts.ask(verb, ids, waits, (jobs) => this.#putOwn(jobs));
    const isHere = act.org === this.org;
    if (act.problem) this.problem = isHere ? act.problem : `In ${act.org}: ${act.problem}`;
    else if (this.problem === told) this.problem = null; // else it is told of the org that is shown now
    if (act.isUnsure && isHere) void this.#connection.connect(); // to see what has come of it
    this.acting = null;
    this.outcome = act;
    this.tell();
    void this.#lookOver();
  }

  /** Fetch the newest jobs that fit, when not all are here; they stay until others are looked for. */
  async find(filter) {
    const { org } = this;
    const wanted = Object.entries(filter).filter(([, value]) => value);
    const isLate = () => filter !== this.#wanted || org !== this.org;
    this.#wanted = filter;
    this.#found.clear();
    this.moreFit = false;
    if (this.complete || !wanted.length || this.connection === 'opening') return; // then it is asked once all is read
    try {
      const { ids, cursor } = await this.#readPage(String(new URLSearchParams(wanted)), PAGE);
      if (isLate()) return;
      this.#found = new Set(ids);
      this.moreFit = cursor != null;
      this.tell();
    } catch (error) {
      if (isLate()) return;
      this.problem = `Older jobs could not be looked for: ${error instanceof Refused ? error.message : 'the server did not answer.'}`;
      this.tell();
    }
  }

  // ---- connection

  /** Read the newest rows; the others follow while the socket already brings what changes. */
  async #load(current) {
    this.loading = true;
    // Until the rows say how it stands.
    const told = this.connection === 'reconnecting' ? this.problem : this.#acts.told;
    this.#old = new Set(this.rows.keys());
    this.tell();
    const [{ owner, home, roles }] = await this.#server.ask('whoami');
    this.home = home;
    // Of others' orgs the server says what it says of one without jobs.
    if (roles && this.org != null && !(this.org in roles)) {
      this.loading = false;
      throw new Unknown();
    }
    this.viewer = owner;
    const seq = await this.#readOverview();
    const { cursor } = await this.#readPage('', FIRST_PAGE);
    if (current()) void this.#readOthers(current, cursor, told);
    return seq;
  }

  async #readOthers(current, cursor, told) {
    try {
      for (const state of ACTIVE) await this.#readPage(`state=${state}`, PAGE);
      while (cursor && current()) {
        const room = MOST_ROWS - this.#found.size - (this.rows.size - this.#old.size);
        if (room <= 0) break;
        ({ cursor } = await this.#readPage(`cursor=${cursor}`, Math.min(PAGE, room)));
        this.tell();
      }
      if (!current()) return;
      this.complete = !cursor;
      if (this.#wanted) await this.find(this.#wanted); // what it had found was there before the break
    } catch (error) {
      if (current()) this.#connection.lose(error);
      return;
    }
    if (!current()) return;
    // What became of these meanwhile is not known.
    for (const id of this.#old) this.#drop(id);
    this.loading = false;
    if (told && this.problem === told) this.problem = null;
    this.outcome = this.#acts.resolve() ?? this.outcome;
    this.tell();
  }

  async #lookOver() {
    if (this.#isLooking || this.connection === 'unknown') return; // a kernel that is busy answers later
    this.#isLooking = true;
    try {
      await this.#readOverview();
    } catch {
      // The socket tells whether the server is there.
    }
    this.#isLooking = false;
  }

  async #readOverview() {
    const { org } = this;
    const query = org == null ? '' : `?org=${encodeURIComponent(org)}`;
    const since = []; // what events tell while the answer is under way: it may not have counted that yet
    this.#asking.add(since);
    const [found, date] = await this.#server.ask(`overview${query}`).finally(() => this.#asking.delete(since));
    if (date) this.clockSkew = Math.abs(date - Date.now()) > 3000 ? date - Date.now() : 0;
    if (org !== this.org) return found.event_seq; // another was chosen meanwhile
    this.org = found.org_id;
    this.overview = found;
    this.counts = { ...found.states };
    for (const change of since) this.#recount(...change);
    this.tell();
    return found.event_seq;
  }

  async #readPage(query, limit) {
    const { org } = this;
    const where = `org=${encodeURIComponent(org)}&limit=${limit}&${query}`;
    const [{ jobs, next_cursor: cursor }] = await this.#server.ask(`jobs?brief=1&${where}`);
    if (org !== this.org) return { ids: [], cursor: null };
    for (const row of jobs) this.#keep(row);
    return { ids: jobs.map(({ id }) => id), cursor };
  }

  #take({ kind, seq, job_id: id, data }) {
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
    for (const since of this.#asking) since.push([seq, before, after]);
    this.#recount(seq, before, after);
  }

  #recount(seq, before, after) {
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
        const [{ jobs }] = await askMany(this.#server, 'lookup', ids);
        this.#putOwn(jobs.filter(({ state }) => !ENDED.has(state)));
        this.tell();
      } catch {
        // The next event of the job asks again.
      }
    }, LOOK_UP_MS);
  }

  // ---- rows

  /** Put those of the jobs that are of the org: it may be another than that for which they were asked. */
  #putOwn(jobs) {
    for (const job of jobs) if (job.org_id === this.org) this.#put(job);
  }
  #put(job) {
    this.#keep({ id: job.id, event_seq: job.event_seq, ...trimmed(job) });
  }
  #keep(row) {
    this.#old.delete(row.id);
    if ((this.rows.get(row.id)?.event_seq ?? 0) > (row.event_seq ?? 0)) return;
    this.#set(row);
  }
  #set(row) {
    this.rows.set(row.id, row);
    this.version += 1;
  }
  /**
   * Let go of rows that are too many, those of which nothing was heard for the longest; their next event looks them up.
   * What runs stays, and what was looked for.
   */
  #bound() {
    if (this.rows.size <= MOST_ROWS + SPARE_ROWS) return;
    const idle = [...this.rows.values()].filter(({ id, state }) => state !== 'running' && !this.#found.has(id));
    idle.sort((a, b) => (a.event_seq ?? 0) - (b.event_seq ?? 0));
    for (const { id } of idle.slice(0, this.rows.size - MOST_ROWS)) this.#drop(id);
    this.complete = false;
  }
  #drop(id) {
    this.rows.delete(id);
    this.#old.delete(id);
    this.version += 1;
  }
  #forget() {
    this.rows.clear();
    this.#old.clear();
    this.#found.clear();
    this.moreFit = false;
    this.version += 1;
    this.overview = null;
    this.counts = {};
    this.complete = false;
  }
}
