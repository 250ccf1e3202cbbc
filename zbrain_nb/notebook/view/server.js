// The feed that needs no kernel: it reads the server directly, over HTTP and one WebSocket.
import { askMany, failedAct, newKey, serverAt } from './ask.js';
import { Connection, unknownIfMissing } from './connection.js';
import { EarlierRuns } from './earlier.js';
import { ENDED, Feed } from './feed.js';
import { LogLines } from './lines.js';

const TAIL = 1000; // lines
const MOST_PARENTS = 50; // followed and shown
const PLACE_MS = 5000; // so often a waiting job is asked for its place in line
const SKEW_MS = 3000; // the Date header counts in whole seconds

const NOT_DONE = {
  cancel: 'The job was not canceled',
  cancel_earlier: 'The earlier runs were not canceled',
  detach: 'Nobody was detached',
  run_again: 'The job was not run again',
};

/** Acts that are of no concern to the job itself: while one waits for its answer, the job can be canceled. */
const ASIDE = new Set(['cancel_earlier', 'detach']);

/** Those of `now`, as the objects of `before` where they are equal: a pane leaves alone what it has drawn of these. */
const keepSame = (before, now) =>
  now.map((each, i) => (JSON.stringify(each) === JSON.stringify(before[i]) ? before[i] : each));

export class ServerFeed extends Feed {
  #server;
  #connection;
  #placing = null;
  #key = null; // of a repeat that has no answer yet
  #unsure = null; // what was told of a cancel whose answer was lost, until a load tells what has come of it
  #attemptsOf = null; // job and attempt up to which `attempts` goes

  /** @param {string | object} server where to ask: the address of the API, or what is a server already */
  constructor(server, saved) {
    super(saved);
    this.#server = serverAt(server);
    this.earlier = new EarlierRuns(this.#server, saved.earlier);
    this.#connection = new Connection(this, this.#server, {
      topic: () => {
        const parents = this.#activeParents.map(({ id }) => `states/${id}`);
        return [`jobs/${this.job.id}`, ...parents, ...this.earlier.topics].join(',');
      },
      isOver: () => this.ended && !this.earlier.active.length,
      load: (current) => this.#load(current),
      take: (event) => {
        this.apply(event);
        this.earlier.take(event);
        void this.#readAttempts();
      },
    });
  }

  start() {
    void this.#connection.connect();
    this.#placing ??= setInterval(() => void this.#readPlace(), PLACE_MS);
    return this;
  }

  stop() {
    clearInterval(this.#placing);
    this.#placing = null;
    this.#connection.close();
  }

  get #activeParents() {
    return this.ended ? [] : this.parents.filter(({ state }) => !ENDED.has(state));
  }

  /** What a notebook has to hold for a view to begin with this job: what the server cannot tell. */
  get saved() {
    const { id, name, state } = this.job;
    return { id, name, version: 1, state, shipped: this.shipped, earlier: this.earlier.ids };
  }

  artifactUrl(name) {
    return this.connection === 'unknown'
      ? null
      : this.#server.urlOf(this.#artifactPath(name));
  }
  /** An artifact, or its `first` bytes, for pages on which it has no address. */
  readArtifact(name, first = null) {
    return this.#server.read(this.#artifactPath(name), first);
  }
  #artifactPath(name) {
    return `${this.#jobPath()}/artifacts/${name.split('/').map(encodeURIComponent).join('/')}`;
  }

  /** The page of the job on the console. */
  get pageUrl() {
    return this.pageOf(this.job.id);
  }
  pageOf(id) {
    return this.connection === 'unknown' ? null : this.#server.pageOf(id);
  }

  /** How many wait for the job's end now, whom `act("detach")` would let go on. */
  async countWaiting() {
    const { waiting = 0 } = await this.#fetch(this.#jobPath());
    return waiting;
  }

  /** @param {boolean} others whether a job may be run again that is another person's; else that is asked first */
  async act(verb, others = false) {
    if (verb === 'reconnect') return void this.#connection.resume();
    const isAside = ASIDE.has(verb);
    if (isAside ? this.aside.has(verb) : this.acting) return;
    const repeats = verb === 'retry' || verb === 'run_again';
    if (repeats && !this.isOwn && !others) return void this.ask(true);
    if (isAside) this.aside.add(verb);
    else this.acting = verb;
    this.problem = null;
    this.tell();
    let isThere = false;
    let told = null;
    const waits = (why) => {
      this.problem = told = why;
      this.tell();
    };
    try {
      if (verb === 'cancel') {
        const { job } = await this.#fetch(`${this.#jobPath()}/cancel`, { method: 'POST', waits });
        // Of one that had ended, the last lines and the value may still be on their way.
        if (ENDED.has(job.state)) await this.#connection.connect();
        else if ((job.event_seq ?? 0) >= (this.job.event_seq ?? 0)) this.setJob(job);
      } else if (verb === 'cancel_earlier') {
        await this.earlier.cancel(waits);
      } else if (verb === 'detach') {
        await this.#fetch(`${this.#jobPath()}/detach`, { method: 'POST', waits });
      } else {
        this.asked = null;
        const path = `${this.#jobPath()}/retry${others ? '?others=1' : ''}`;
        this.#key ??= newKey();
        const job = await this.#fetch(path, { method: 'POST', key: this.#key, waits });
        this.#key = null;
        isThere = Boolean(job.deduplicated);
        this.#follow(job);
      }
      if (this.problem === told) this.problem = null; // else it is another act's
      if (isThere) this.problem = 'It had been submitted again already: this is that job.';
    } catch (error) {
      const failed = failedAct(error, NOT_DONE[verb] ?? NOT_DONE.run_again);
      this.problem = failed.text;
      if (failed.isUnsure) {
        if (verb.startsWith('cancel')) this.#unsure = failed.text; // of others this job does not tell
        void this.#connection.connect(); // to see what has come of it
      }
    }
    if (isAside) this.aside.delete(verb);
    else this.acting = null;
    this.tell();
  }

  // ---- data

  async #load(current) {
    const path = this.#jobPath();
    // The outputs first: what is followed from their number on then begins before all that is loaded here.
    let shown = await this.#fetch(`${path}/outputs`).catch(unknownIfMissing);
    const from = shown.event_seq;
    const job = await this.#fetch(path).catch(unknownIfMissing);
    // Of a job that has ended since nothing more comes, and a new attempt has outputs of its own.
    if (job.event_seq > from) shown = await this.#fetch(`${path}/outputs`).catch(unknownIfMissing);
    const { owner: viewer } = await this.#fetch('whoami');
    const lines = this.loaded
      ? this.log
      : new LogLines(
          (from, limit, stream) => this.#range(from, limit, stream),
          (from, limit, text) => this.#lines(`from_seq=${from}&limit=${limit}&q=${encodeURIComponent(text)}`),
        );
    await this.#fillLog(lines, job.log_lines);
    const parents = await this.#parentsOf(job);
    const earlier = await this.earlier.read(job);
    if (!current()) return null;
    const { isOwn: wasOwn } = this;
    this.viewer = viewer;
    this.setJob(job);
    this.parents = parents;
    this.earlier.jobs = earlier;
    if (this.#unsure && this.problem === this.#unsure) this.problem = null;
    this.#unsure = null;
    void this.#readAttempts();
    // What was drawn as one's own is caged if it is not, and the reverse.
    this.outputs = this.isOwn === wasOwn ? keepSame(this.outputs, shown.outputs) : shown.outputs;
    this.clearNext = shown.clear_next;
    this.leftOut = 0;
    this.outputsSeq = shown.event_seq;
    this.log = lines;
    this.loaded = true;
    return from;
  }

  /** The jobs that `job` waits for, as they are now; what becomes of them comes by the socket. */
  async #parentsOf({ state, spec }) {
    if (state !== 'pending' || !spec.after?.length) return [];
    return (await askMany(this.#server, 'lookup', spec.after.slice(0, MOST_PARENTS)))[0].jobs;
  }

  /** Ask how far a waiting job has come in its line: no event tells of that. */
  async #readPlace() {
    const { id, state, event_seq: seq } = this.job;
    if (state !== 'pending' || this.connection !== 'live' || document.hidden) return;
    try {
      const job = await this.#fetch(this.#jobPath());
      if (this.job.id !== id || this.job.event_seq !== seq || job.event_seq !== seq || job.reason === this.job.reason) return;
      this.setJob(job);
      this.tell();
    } catch {
      // the connection tells of a server that is gone; the next time asks again
    }
  }

  /** Learn of each attempt how it ended, once it is to be tried again: the job itself tells of the last alone. */
  async #readAttempts() {
    const { id, attempt, state } = this.job;
    const key = `${id} ${attempt}`;
    if (state !== 'retrying' || key === this.#attemptsOf) return;
    this.#attemptsOf = key;
    try {
      const { attempts } = await this.#fetch(`${this.#jobPath()}/attempts`);
      if (key !== this.#attemptsOf) return;
      this.attempts = attempts;
      this.tell();
    } catch {
      this.#attemptsOf = null; // the next event asks again; until then the counts are told
    }
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
    return this.#fetch(`${this.#jobPath()}/logs?${query}`);
  }

  #jobPath() {
    return `jobs/${encodeURIComponent(this.job.id)}`;
  }

  async #fetch(path, options = {}) {
    const [found, date] = await this.#server.ask(path, options);
    if (date) this.clockSkew = Math.abs(date - Date.now()) > SKEW_MS ? date - Date.now() : 0;
    return found;
  }

  /** Show another job in place of this one: the one that repeats it. */
  #follow(job) {
    this.setJob(job);
    this.loaded = false;
    this.cached = false;
    this.parents = [];
    this.earlier.asked.clear();
    this.attempts = [];
    this.outputs = [];
    this.leftOut = 0;
    this.outputsSeq = 0;
    this.log = new LogLines();
    void this.#connection.connect();
  }
}
