// What the view of a group reads: many jobs, looked at in one request and followed on one socket.
import { Refused, serverAt } from './ask.js';
import { Connection, Unknown } from './connection.js';
import { ENDED } from './feed.js';

export class GroupFeed {
  #server;
  #listeners = new Set();
  #connection;
  #places = new Map();

  /**
   * @param {string | object} server where to ask: the address of the API, or what is a server already
   * @param {object} saved what the bundle in the notebook holds: name, org and, for each run, id, state and label
   */
  constructor(server, saved) {
    this.#server = serverAt(server);
    this.name = saved.name;
    this.org = saved.org;
    this.jobs = saved.runs.map((run) => ({ spec: {}, ...run }));
    this.labels = saved.runs.map(({ label }) => label ?? '');
    this.connection = 'opening'; // or "live", "reconnecting" (tries again), "unknown" to the server
    this.heardAt = null;
    this.nextTryAt = null;
    this.refusal = null;
    this.problem = null;
    this.acting = null;
    this.#connection = new Connection(this, this.#server, {
      topic: () => `orgs/${this.org}`,
      load: (current) => this.#load(current),
      take: (event) => this.#take(event),
    });
    this.#number();
  }

  start() {
    void this.#connection.connect();
    return this;
  }

  stop() {
    this.#connection.close();
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
    if (verb === 'reconnect') return void this.#connection.resume();
    if (!this.canAct) return;
    this.acting = verb;
    this.problem = null;
    this.tell();
    const waits = (why) => {
      this.problem = why;
      this.tell();
    };
    try {
      const ids = jobs.map(({ id }) => id);
      const [{ jobs: changed }] = await this.#server.ask(`jobs/${verb}`, { method: 'POST', body: { ids }, waits });
      for (const job of changed) {
        const place = this.#places.get(verb === 'retry' ? job.retry_of : job.id);
        if (place != null && (verb === 'retry' || job.event_seq >= (this.jobs[place].event_seq ?? 0)))
          this.jobs[place] = job;
      }
      this.#number();
      this.problem = null;
      if (verb === 'retry') void this.#connection.connect();
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

  async #load(current) {
    const ids = this.jobs.map(({ id }) => id);
    const [{ jobs, event_seq: seq }] = await this.#server.ask('jobs/lookup', { method: 'POST', body: { ids } });
    if (ids.length && !jobs.length) throw new Unknown();
    if (!current()) return null;
    for (const job of jobs) this.jobs[this.#places.get(job.id)] = job;
    return seq;
  }

  #take({ kind, seq, job_id: id, data }) {
    const job = this.jobs[this.#places.get(id)];
    if (!job || kind === 'job_logged' || kind === 'job_displayed' || seq <= (job.event_seq ?? 0)) return;
    this.jobs[this.#places.get(id)] = { ...job, ...data, event_seq: seq };
  }
}
