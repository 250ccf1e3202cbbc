// What the view of a group reads: many jobs, looked at together and followed on one socket. A run that was submitted
// again, by whomever, stands in the place of what it repeats, as `standing` says.
import { askMany, failedAct, serverAt } from './ask.js';
import { Connection, Unknown, unknownIfMissing } from './connection.js';
import { EarlierRuns } from './earlier.js';
import { ENDED } from './feed.js';
import { ManyActs, countThere } from './many.js';

const PAGE = 1000; // jobs asked for at once
const GROUP_TAG = 'zbrain.group';
const NOT_DONE = {
  cancel: 'Not all runs were canceled',
  cancel_earlier: 'The earlier runs were not canceled',
  detach: 'Nobody was detached',
  retry: 'Not all runs were tried again',
};

/**
 * Which of the runs of a place, oldest first, stands there; the kernel says the same (`JobGroup.put`). It gives way to
 * what repeats it, and to any later run if it has ended without success: neither pushes out what runs or has succeeded,
 * nor hides what runs behind what came to nothing.
 */
function standing([first, ...later]) {
  const givesWay = ({ id, state }, run) => run.retry_of === id || state === 'failed' || state === 'canceled';
  return later.reduce((stands, run) => (givesWay(stands, run) ? run : stands), first);
}

export class GroupFeed {
  #server;
  #listeners = new Set();
  #connection;
  #runs; // by place, all that ran there, oldest first
  #places; // by the id of a run, and of what it repeats
  #tag = null; // that its jobs share, and those that repeat them
  #newest = null; // id of the newest job that bears it
  #first; // id of the run by which who waits for the group can be let go on, whatever became of it
  #acts;
  #unsure = null; // what was told of an act whose answer was lost, until a load tells what has come of it

  /**
   * @param {string | object} server where to ask: the address of the API, or what is a server already
   * @param {object} saved what the bundle in the notebook holds: name, org and, for each run, id, state and label
   */
  constructor(server, saved) {
    this.#server = serverAt(server);
    this.#acts = new ManyActs(this.#server);
    this.earlier = new EarlierRuns(this.#server, saved.earlier);
    this.name = saved.name;
    this.org = saved.org;
    this.jobs = saved.runs.map((run) => ({ spec: {}, ...run }));
    this.#runs = this.jobs.map((job) => [job]);
    this.#places = new Map(this.jobs.map(({ id }, place) => [id, place]));
    this.#first = saved.runs[0]?.id;
    this.labels = saved.runs.map(({ label }) => label ?? '');
    this.missing = new Set(); // ids of runs that the server does not know, as others of the group
    this.connection = 'opening'; // or "live", "reconnecting" (tries again), "unknown" to the server
    this.heardAt = null;
    this.nextTryAt = null;
    this.refusal = null;
    this.problem = null;
    this.acting = null;
    this.#connection = new Connection(this, this.#server, {
      topic: () => [`orgs/${this.org}`, ...this.earlier.topics].join(','),
      isOver: () => this.ended && !this.earlier.active.length,
      load: (current) => this.#load(current),
      take: (event) => {
        this.#take(event);
        this.earlier.take(event);
      },
      look: async () => this.#tag != null && (await this.#readTagged(1)).jobs[0]?.id !== this.#newest,
    });
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
    return this.jobs.every(({ id, state }) => ENDED.has(state) || this.missing.has(id));
  }
  get canAct() {
    return this.connection === 'live' && !this.acting;
  }
  /** The runs that can be canceled, also those that wait for a place. */
  get active() {
    const isActive = ({ id, state, cancel_requested_at: asked }) => !ENDED.has(state) && !asked && !this.missing.has(id);
    return this.#runs.flat().filter(isActive);
  }
  /** The runs that failed and can be tried again. */
  get failed() {
    return this.jobs.filter(({ id, state }) => state === 'failed' && !this.missing.has(id));
  }
  /** How many runs are in each state, in the order of their life. */
  get counts() {
    const found = { succeeded: 0, running: 0, retrying: 0, pending: 0, failed: 0, canceled: 0 };
    for (const { state } of this.jobs) found[state] += 1;
    return Object.entries(found).filter(([, count]) => count);
  }

  /** By how many of the runs somebody waits for their end now, whom `act("detach")` would let go on. */
  async countWaiting() {
    return (await this.#waitedFor()).length;
  }

  async act(verb, jobs = []) {
    if (verb === 'reconnect') return void this.#connection.resume();
    if (!this.canAct) return;
    this.acting = verb;
    this.problem = null;
    this.tell();
    const waits = (why) => {
      this.problem = why;
      this.tell();
    };
    let isUnsure = false;
    try {
      const apart = { cancel_earlier: () => this.#cancelEarlier(waits), detach: () => this.#letGo(waits) }[verb];
      this.problem = await (apart ? apart() : this.#change(verb, jobs, waits));
    } catch (error) {
      const failed = failedAct(error, NOT_DONE[verb]);
      this.problem = failed.text;
      ({ isUnsure } = failed);
      if (isUnsure && verb !== 'detach') this.#unsure = failed.text; // no load tells who waits
    }
    // To follow what is new, also of a retry that was refused half done; or to see what has come of it.
    if (verb === 'retry' || isUnsure) void this.#connection.connect();
    this.acting = null;
    this.tell();
  }

  /** Take a run that was submitted again beside this feed, and follow it. */
  takeRepeat(job) {
    if (this.#find(job.id)) return;
    this.#add(job);
    if (this.connection === 'live') void this.#connection.connect();
    this.tell();
  }

  /** Cancel or retry runs, and show what became of them; return what is to be told of those of which it made nothing new. */
  async #change(verb, jobs, waits) {
    const ids = jobs.map(({ id }) => id);
    let there = 0;
    let others = 0;
    for await (const found of this.#acts.ask(verb, ids, waits)) {
      for (const job of found.jobs) {
        if (verb === 'retry') this.#add(job);
        else this.#renew(job);
      }
      there += countThere(found.jobs);
      others += found.others?.length ?? 0;
    }
    const told = [
      there && `Runs that had been submitted again already, so that nothing new was made: ${there}.`,
      others && `Runs of others were passed over: ${others}. Retry is on the page of each.`,
    ];
    return told.filter(Boolean).join(' ') || null;
  }

  async #cancelEarlier(waits) {
    await this.earlier.cancel(waits);
    return null;
  }

  async #letGo(waits) {
    for (const id of await this.#waitedFor()) await this.#server.ask(`jobs/${id}/detach`, { method: 'POST', waits });
    return null;
  }

  /** Ids of runs by which somebody waits: for the group by the first, and by any that had not ended. */
  async #waitedFor() {
    const active = this.jobs.find(({ id, state }) => !ENDED.has(state) && !this.missing.has(id));
    const found = [];
    for (const id of new Set([this.#first, active?.id])) {
      if (!id || this.missing.has(id)) continue;
      const [{ waiting = 0 }] = await this.#server.ask(`jobs/${id}`);
      if (waiting) found.push(id);
    }
    return found;
  }

  async #load(current) {
    const ids = this.#runs.flat().map(({ id }) => id);
    const known = [];
    let seq = null;
    for (let at = 0; at < ids.length; at += PAGE) {
      const asked = askMany(this.#server, 'lookup', ids.slice(at, at + PAGE));
      const [{ jobs, event_seq: now }] = await asked.catch(unknownIfMissing); // as `Ways` says it, too
      known.push(...jobs);
      seq ??= now;
    }
    if (!known.length) throw new Unknown();
    const again = await this.#readRepeats(known);
    const earlier = await this.earlier.read(known[0]);
    if (!current()) return null;
    this.earlier.jobs = earlier;
    // What the notebook has may be the last of many that ran there, and others repeat the first of them.
    for (const { id, retry_of: old } of [...known, ...again]) {
      if (old && this.#places.has(id) && !this.#places.has(old)) this.#places.set(old, this.#places.get(id));
    }
    for (const job of again.reverse()) this.#add(job);
    for (const job of known) this.#set(job);
    const there = new Set(known.map(({ id }) => id));
    this.missing = new Set(ids.filter((id) => !there.has(id) && this.#stands(id)));
    if (this.#unsure && this.problem === this.#unsure) this.problem = null;
    this.#unsure = null;
    return seq;
  }

  /** Jobs that repeat others of the group, newest first: they bear its tag too. */
  async #readRepeats(known) {
    const groups = new Set(known.map(({ spec }) => spec.tags?.[GROUP_TAG]));
    const [group] = groups;
    this.#tag = groups.size === 1 && group ? `${GROUP_TAG}=${group}` : null;
    if (!this.#tag) return [];
    const found = [];
    for (let cursor = ''; cursor != null; ) {
      const page = await this.#readTagged(PAGE, cursor);
      found.push(...page.jobs);
      cursor = page.next_cursor;
    }
    this.#newest = found[0]?.id;
    return found.filter(({ retry_of: old }) => old);
  }

  /** Read jobs that bear the tag, the newest first. */
  async #readTagged(limit, cursor = '') {
    const tag = encodeURIComponent(this.#tag);
    return (await this.#server.ask(`jobs?brief=1&tag=${tag}&limit=${limit}${cursor && `&cursor=${cursor}`}`))[0];
  }

  #find(id) {
    return this.#runs[this.#places.get(id)]?.find((run) => run.id === id);
  }

  #stands(id) {
    return this.jobs[this.#places.get(id)].id === id;
  }

  /** Take a job that repeats a run of the group, if it was not heard of already. */
  #add(job) {
    const place = this.#places.get(job.retry_of);
    if (place == null || this.#find(job.id)) return;
    this.#places.set(job.id, place);
    this.#stand(place, [...this.#runs[place], job].sort((a, b) => (a.id < b.id ? -1 : 1))); // ids grow with time
  }

  /** Take a run as it is now, unless more is known of it. */
  #renew(job) {
    const old = this.#find(job.id);
    if (old && job.event_seq >= (old.event_seq ?? 0)) this.#set(job);
  }

  /** Take a run of the group as it is now. */
  #set(job) {
    const place = this.#places.get(job.id);
    this.#stand(place, this.#runs[place].map((run) => (run.id === job.id ? job : run)));
  }

  #stand(place, runs) {
    const { id } = this.jobs[place];
    this.#runs[place] = runs;
    this.jobs[place] = standing(runs);
    if (!this.#stands(id)) this.missing.delete(id);
  }

  #take({ kind, seq, job_id: id, data }) {
    if (kind === 'job_submitted' && data.retry_of) return this.#add({ ...data, id, event_seq: seq });
    const job = this.#find(id);
    if (!job || kind === 'job_logged' || kind === 'job_displayed' || seq <= (job.event_seq ?? 0)) return;
    this.#set({ ...job, ...data, event_seq: seq });
  }
}
