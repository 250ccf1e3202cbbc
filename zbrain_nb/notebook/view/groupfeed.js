// What the view of a group reads: many jobs, looked at in one request and followed on one socket.
import { Refused, ask, ownSocket } from './ask.js';
import { ENDED } from './feed.js';
import { pulse } from './pulse.js';

const FIRST_WAIT = 500; // milliseconds
const LONGEST_WAIT = 30_000;

export class GroupFeed {
  #api;
  #listeners = new Set();
  #socket = null;
  #pulse = null;
  #turn = 0; // callbacks of an older connection find another number here and do nothing
  #tries = 0;
  #timer = null;
  #places = new Map();

  /** @param {object} saved what the bundle in the notebook holds: name, org and, for each run, id, state and label */
  constructor(api, saved) {
    this.#api = api;
    this.name = saved.name;
    this.org = saved.org;
    this.jobs = saved.runs.map((run) => ({ spec: {}, ...run }));
    this.labels = saved.runs.map(({ label }) => label ?? '');
    this.connection = 'opening'; // or "live", "reconnecting" (tries again), "unknown" to the server, "saved" (there is none)
    this.nextTryAt = null;
    this.problem = null;
    this.acting = null;
    this.#number();
  }

  start() {
    if (this.#api) void this.#connect();
    else this.connection = 'saved';
    return this;
  }

  stop() {
    this.#close();
  }

  on(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
  tell() {
    for (const listener of this.#listeners) listener();
  }

  get ended() {
    return this.jobs.every(({ state }) => ENDED.has(state));
  }
  get canAct() {
    return this.connection === 'live' && !this.acting;
  }
  get failed() {
    return this.jobs.filter(({ state }) => state === 'failed');
  }
  /** How many runs are in each state, in the order of their life. */
  get counts() {
    const found = { succeeded: 0, running: 0, retrying: 0, pending: 0, failed: 0, canceled: 0 };
    for (const { state } of this.jobs) found[state] += 1;
    return Object.entries(found).filter(([, count]) => count);
  }

  async act(verb, jobs) {
    if (verb === 'reconnect') return void this.#connect();
    if (!this.canAct) return;
    this.acting = verb;
    this.problem = null;
    this.tell();
    try {
      const ids = jobs.map(({ id }) => id);
      const [{ jobs: changed }] = await ask(`${this.#api}jobs/${verb}`, { method: 'POST', body: { ids } });
      for (const job of changed) {
        const place = this.#places.get(verb === 'retry' ? job.retry_of : job.id);
        if (place != null && (verb === 'retry' || job.event_seq >= (this.jobs[place].event_seq ?? 0)))
          this.jobs[place] = job;
      }
      this.#number();
      if (verb === 'retry') void this.#connect();
    } catch (error) {
      const what = verb === 'cancel' ? 'The runs were not canceled' : 'The runs were not tried again';
      this.problem = `${what}: ${error instanceof Refused ? error.message : 'the server did not answer.'}`;
    }
    this.acting = null;
    this.tell();
  }

  #number() {
    this.#places = new Map(this.jobs.map(({ id }, place) => [id, place]));
  }

  async #connect() {
    this.#close();
    const turn = this.#turn;
    this.nextTryAt = null;
    try {
      const [{ jobs, event_seq: seq }] = await ask(`${this.#api}jobs/lookup`, {
        method: 'POST',
        body: { ids: this.jobs.map(({ id }) => id) },
      });
      if (turn !== this.#turn) return;
      for (const job of jobs) this.jobs[this.#places.get(job.id)] = job;
      const known = jobs.length > 0 || !this.jobs.length;
      if (known && !this.ended) this.#open(turn, seq);
      this.connection = known ? 'live' : 'unknown';
      this.#tries = 0;
      this.tell();
    } catch {
      if (turn === this.#turn) this.#lose();
    }
  }

  #open(turn, seq) {
    const topic = encodeURIComponent(`orgs/${this.org}`);
    const socket = new WebSocket(ownSocket(`${this.#api.replace(/^http/, 'ws')}events?topics=${topic}&after=${seq}`));
    this.#socket = socket;
    this.#pulse = pulse(() => turn === this.#turn && this.#lose());
    socket.onmessage = ({ data }) => {
      if (turn !== this.#turn) return;
      this.#pulse.beat();
      for (const event of JSON.parse(data)) this.#take(event);
      if (this.ended) this.#close();
      this.tell();
    };
    socket.onclose = () => {
      if (turn === this.#turn) this.#lose();
    };
  }

  #take({ kind, seq, job_id: id, data }) {
    if (kind === 'reset') return void this.#connect();
    const job = this.jobs[this.#places.get(id)];
    if (!job || kind === 'job_logged' || kind === 'job_displayed' || seq <= (job.event_seq ?? 0)) return;
    this.jobs[this.#places.get(id)] = { ...job, ...data, event_seq: seq };
  }

  #lose() {
    this.#close();
    this.connection = 'reconnecting';
    const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.#tries) * (0.75 + Math.random() / 2);
    this.#tries += 1;
    this.nextTryAt = Date.now() + wait;
    this.#timer = setTimeout(() => void this.#connect(), wait);
    this.tell();
  }

  #close() {
    this.#turn += 1;
    clearTimeout(this.#timer);
    this.#pulse?.stop();
    if (this.#socket) {
      this.#socket.onclose = null;
      this.#socket.close();
    }
    this.#socket = null;
  }
}
