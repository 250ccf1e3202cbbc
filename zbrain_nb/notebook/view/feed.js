// What a view reads: a job, its outputs and its log, kept up to date by events. Subclasses bring them from
// somewhere (`server.js`, `kernel.js`); the rules by which an event changes the state are here, once.
import { LogLines } from './lines.js';

const CHANGES = new Set([
  'job_submitted',
  'job_leased',
  'job_started',
  'job_progressed',
  'job_completed',
  'job_failed',
  'job_retrying',
  'job_cancel_requested',
  'job_canceled',
]);
export const ENDED = new Set(['succeeded', 'failed', 'canceled']);

/** A job as an event leaves it, which may be of another or tell nothing new. */
export const changedBy = ({ kind, seq, data, job_id: id }, job) =>
  job.id === id && CHANGES.has(kind) && seq > (job.event_seq ?? 0) ? { ...job, ...data, event_seq: seq } : job;

export class Feed {
  #listeners = new Set();

  /** @param {object} saved what the bundle in the notebook holds: id, name, state, and perhaps job, log, outputs */
  constructor(saved) {
    this.job = { spec: {}, id: saved.id, attempt: 0, ...saved.job, name: saved.name, state: saved.state ?? 'pending' };
    this.outputs = saved.outputs ?? [];
    this.leftOut = saved.outputs_left_out ?? 0; // of the outputs, the first ones: so many the notebook did not keep
    this.shipped = saved.shipped ?? ''; // the variables that went along, said by the magic alone
    this.viewer = saved.viewer ?? null; // as whom the server sees who looks; the notebook keeps who looked last
    this.cached = saved.cached ?? false; // nothing ran: the cell took what this job gave before
    this.parents = []; // the jobs that have to end first, while it waits for them
    this.attempts = []; // how it was tried so far, read when it is tried again
    this.log = new LogLines();
    this.log.add(saved.log ?? []);
    // "opening" (first try), "live", "reconnecting" (tries again) or "unknown" (the server does not know the job)
    this.connection = 'opening';
    this.loaded = false;
    this.heardAt = null;
    this.nextTryAt = null;
    this.refusal = null; // what the server said, if it answered but not with the job
    this.problem = null;
    this.acting = null;
    this.aside = new Set(); // acts under way that hold up no other
    this.asked = null; // the other person's job of which was asked whether it shall run again
    this.clockSkew = 0;
    this.outputsSeq = 0; // the event up to which the outputs are here
    this.clearNext = false;
  }

  /** Whether the job is the viewer's own: what others' jobs show is caged, and so is all until that is known. */
  get isOwn() {
    return this.viewer != null && this.job.owner === this.viewer;
  }
  /** Whether it was asked, and not answered yet, if the code of another person shall run as the viewer. */
  get asks() {
    return this.asked === this.job.id && !this.isOwn;
  }
  ask(whether) {
    this.asked = whether ? this.job.id : null;
    this.tell();
  }
  get ended() {
    return ENDED.has(this.job.state);
  }
  get canceling() {
    return !this.ended && (this.acting === 'cancel' || Boolean(this.job.cancel_requested_at));
  }
  /** Milliseconds since the epoch by the server's clock, which is the one that wrote the job's times. */
  get now() {
    return Date.now() + this.clockSkew;
  }
  /** What was displayed; the value stands apart, and the error that ends the job is told by that. */
  get displays() {
    const { state, error } = this.job;
    const ends = ({ output_type: type, ename, evalue }) =>
      type === 'error' && (state !== 'failed' || (ename === error?.ename && evalue === error?.evalue));
    // What comes last may end the job, until something follows; a job that is canceled raises it.
    const last = state === 'succeeded' ? -1 : this.outputs.length - 1;
    const at = state === 'failed' ? this.outputs.findLastIndex(ends) : last;
    return this.outputs.filter((output, i) => output.output_type !== 'execute_result' && !(i === at && ends(output)));
  }
  get values() {
    return this.outputs.filter(({ output_type: type }) => type === 'execute_result');
  }
  get canAct() {
    return this.connection === 'live';
  }

  on(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
  tell() {
    for (const listener of this.#listeners) listener();
  }

  /** Take one event, at most once, whatever was loaded or seen before. */
  apply(event) {
    const { kind, seq, data, job_id: id } = event;
    if (id && id !== this.job.id) this.parents = this.parents.map((job) => changedBy(event, job));
    else if (kind === 'job_logged') this.log.add(data.entries);
    else if (kind === 'job_displayed') {
      if (seq <= this.outputsSeq) return;
      this.outputsSeq = seq;
      for (const output of data.outputs) this.#display(output);
    } else if (CHANGES.has(kind) && seq > (this.job.event_seq ?? 0)) {
      this.#change({ ...this.job, ...data, event_seq: seq });
    }
  }

  /** Take a whole job as it stands now. */
  setJob(job) {
    this.#change({ ...job, name: nameOf(job) ?? this.job.name });
  }

  #change(job) {
    if (job.attempt > this.job.attempt && !(job.event_seq <= this.outputsSeq)) {
      this.outputs = []; // those of the attempt before are the log's business
      this.clearNext = false;
    }
    this.job = job;
  }

  #display(output) {
    const id = output.transient?.display_id;
    if (output.output_type === 'clear_output') {
      if (output.wait) this.clearNext = true;
      else this.outputs = [];
      return;
    }
    if (output.output_type === 'update_display_data') {
      this.outputs = this.outputs.map((old) =>
        id != null && old.transient?.display_id === id ? { ...old, data: output.data, metadata: output.metadata } : old,
      );
      return;
    }
    this.outputs = this.clearNext ? [output] : [...this.outputs, output];
    this.clearNext = false;
  }
}

/** As `JobSpec.title` says it. */
export function nameOf({ name, spec = {} }) {
  if (spec.name) return spec.name;
  if (spec.cmd) return spec.cmd.join(' ').slice(0, 60);
  if (spec.code != null) return (spec.code.split('\n').find((line) => line.trim()) ?? 'cell').trim().slice(0, 60);
  return spec.function ? 'function' : name;
}
