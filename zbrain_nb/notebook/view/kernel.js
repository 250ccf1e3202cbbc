// The feed for pages that cannot reach the server (VS Code, Colab, remote kernels): the kernel hands on what it
// hears, through the widget's model. Older log lines and artifacts stay with the server.
import { Feed } from './feed.js';
import { LogLines } from './lines.js';

export class KernelFeed extends Feed {
  #model;

  constructor(model) {
    super({ id: model.get('job_id'), name: model.get('name'), ...model.get('snapshot') });
    this.#model = model;
    this.connection = 'live';
    this.loaded = true;
    model.on('msg:custom', this.#take);
    model.on('change:snapshot', this.#replace);
    model.send({ act: 'refresh' });
  }

  stop() {
    this.#model.off('msg:custom', this.#take);
    this.#model.off('change:snapshot', this.#replace);
  }

  act(verb) {
    this.problem = null;
    this.acting = verb;
    this.tell();
    this.#model.send({ act: verb });
  }

  #take = ({ events, problem }) => {
    for (const event of events ?? []) this.apply(event);
    if (problem) this.problem = problem;
    if (problem || this.job.cancel_requested_at) this.acting = null;
    this.tell();
  };

  #replace = () => {
    const { job, log = [], outputs = [], event_seq: seq = 0 } = this.#model.get('snapshot');
    if (!job) return;
    if (job.id !== this.job.id) {
      this.log = new LogLines();
      this.acting = null;
    }
    this.setJob(job);
    this.log.add(log);
    this.outputs = outputs;
    this.outputsSeq = seq;
    this.tell();
  };
}
