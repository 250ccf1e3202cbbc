// The server as pages reach it that cannot do so themselves (VS Code, Colab, remote kernels): the kernel asks in their
// place. `bridge.py` is the other end. To feeds it is a server like `PageServer` in `ask.js`.
import { Refused, Unreached } from './ask.js';
import { NO_MEMBER, UNKNOWN_CALLER } from './connection.js';

const TARGET = 'zbrain_nb'; // of comms
const LOOK_MS = 1_000;
const SLOW_MS = 3_000;
const PATIENCE_MS = 10_000;
const QUIET_MS = 40_000; // what is followed says something at least every 15 s
const HERE_MS = 15_000;
const BUSY = 'The kernel runs a cell; this is done when it is free.';
const SILENT = 'The kernel does not answer. While it runs a cell, it hands nothing on.';
const GAP = 'A part of the answer was lost between the kernel and this page.';
const GONE = {
  dead: 'The kernel has ended.',
  terminating: 'The kernel has ended.',
  restarting: 'The kernel is being restarted.',
  autorestarting: 'The kernel has died, and is being restarted.',
};
const NO_TARGET = 'The kernel knows nothing of zbrain: run `%load_ext zbrain_nb` in it.';

const CLOSES = { 401: UNKNOWN_CALLER, 403: NO_MEMBER }; // what a status means for what is followed

export class KernelServer {
  #open;
  #channel = null;
  #page = Math.random().toString(36).slice(2); // who of those that hear the same messages this one is
  #last = 0;
  #asked = new Map(); // by number: what has no answer yet, and what is followed
  #heardAt = 0;
  #saidAt = 0;
  #timer = null;

  /**
   * @param {(heard: (message: object, buffers: ArrayBuffer[]) => void, lost: (why: string) => void) => object} open
   *   opens a channel to the kernel: an object with `send(message)` and `close()`
   */
  constructor(open) {
    this.#open = open;
  }

  /**
   * As `ask` in `ask.js`. What a person has pressed gives `waits`, which is called with a sentence when the answer takes
   * its time. It is not given up while there is a kernel: it waits there to be done, and nobody could take it back.
   */
  async ask(path, { method = 'GET', body, key, waits } = {}) {
    const { parts, date } = await this.#request({ method, path, body, key }, waits);
    return [JSON.parse(textOf(parts)), Date.parse(date ?? '') || 0];
  }

  /** The file at `path`, or its `first` bytes. */
  async read(path, first = null) {
    return new Blob((await this.#request({ method: 'GET', path, first })).parts);
  }

  /** What a WebSocket would give, as far as a feed uses it. */
  events(query) {
    const socket = { onopen: null, onmessage: null, onclose: null, close: () => this.#drop(number) };
    const number = this.#send({ method: 'EVENTS', path: `events?${query}` }, { socket });
    return socket;
  }

  /** Files and pages have no address here. */
  urlOf() {
    return null;
  }
  pageOf() {
    return null;
  }
  homePage() {
    return null;
  }

  /** Hold no channel, and open none for what is asked late. */
  stop() {
    this.#open = () => {
      throw new Unreached('The view was closed.');
    };
    this.#lose('The view was closed.');
  }

  #request(message, waits = null) {
    return new Promise((resolve, reject) => this.#send(message, { resolve, reject, waits }));
  }

  #send(message, asked) {
    const number = ++this.#last;
    this.#asked.set(number, { ...asked, parts: [], at: Date.now(), checkedAt: 0, next: 0 });
    this.#timer ??= setInterval(() => this.#look(), LOOK_MS);
    // Whoever asked has first to take what is returned, also when it fails at once.
    queueMicrotask(() => this.#say({ ...message, id: number }));
    return number;
  }

  #say(message) {
    this.#saidAt = Date.now();
    try {
      this.#channel ??= this.#open(this.#hear, (why) => this.#lose(why));
      this.#channel.send({ ...message, page: this.#page });
      const asked = this.#asked.get(message.id);
      if (asked) asked.isSent = true;
    } catch (error) {
      this.#lose(error.message);
    }
  }

  #drop(number) {
    if (this.#asked.delete(number) && this.#channel) this.#say({ method: 'DROP', id: number });
  }

  #hear = ({ page, id, status, date, part, more }, buffers) => {
    this.#heardAt = Date.now();
    const asked = page === this.#page && this.#asked.get(id);
    if (!asked) return;
    if (status === 200 && part !== asked.next) return this.#end(id, new Unreached(GAP), true);
    asked.next += 1;
    asked.at = this.#heardAt;
    asked.parts.push(...buffers);
    if (more) return;
    const { parts, socket } = asked;
    asked.parts = [];
    if (status !== 200) return this.#end(id, new Refused(status, JSON.parse(textOf(buffers))));
    if (!socket) {
      this.#asked.delete(id);
      return asked.resolve({ parts, date });
    }
    if (!asked.opened) {
      asked.opened = true;
      socket.onopen?.();
    }
    socket.onmessage?.({ data: textOf(parts) });
  };

  #end(number, error, drops = false) {
    const { socket, reject, isSent = false } = this.#asked.get(number);
    if (error instanceof Unreached) error.isSent = isSent;
    if (drops) this.#drop(number);
    this.#asked.delete(number);
    if (socket) socket.onclose?.({ code: CLOSES[error.status], reason: error.message });
    else reject(error);
  }

  /** Say that somebody listens here, and give up what the kernel does not answer. */
  #look() {
    const now = Date.now();
    const all = [...this.#asked];
    const patience = all.some(([, { opened }]) => opened) ? QUIET_MS : PATIENCE_MS;
    for (const [number, asked] of all) {
      if (asked.socket) continue; // the feed sees for itself when it falls silent
      if (now - asked.at > SLOW_MS) asked.waits?.(BUSY);
      if (asked.waits || now - Math.max(asked.at, this.#heardAt) < patience) {
        if (now - asked.at < HERE_MS || now - asked.checkedAt < HERE_MS) continue;
        asked.checkedAt = now; // a kernel that has answered says so
        this.#say({ method: 'HERE', id: number });
        continue;
      }
      this.#end(number, new Unreached(SILENT, true), true);
    }
    if (this.#channel && now - this.#saidAt > HERE_MS) this.#say({ method: 'HERE' });
    if (this.#asked.size) return;
    clearInterval(this.#timer);
    this.#timer = null;
  }

  #lose(why) {
    this.#channel?.close();
    this.#channel = null;
    for (const number of [...this.#asked.keys()]) if (this.#asked.has(number)) this.#end(number, new Unreached(why));
  }
}

function textOf(parts) {
  const decoder = new TextDecoder();
  return parts.map((part) => decoder.decode(part, { stream: true })).join('') + decoder.decode();
}

/** The channel of a widget: the comm of its model. */
export const modelChannel = (model) => (heard, lost) => {
  const change = () => lost('The connection to the kernel was lost.');
  model.on('msg:custom', heard);
  model.on('comm_live_update', change);
  return {
    send: (message) => model.send(message),
    close() {
      model.off('msg:custom', heard);
      model.off('comm_live_update', change);
    },
  };
};

/** The channel of JupyterLab's session context of a document: a comm of its own to the kernel that it has now. */
export const commChannel = (context) => (heard, lost) => {
  const kernel = context.session?.kernel;
  if (!kernel?.handleComms) throw new Unreached('No kernel runs that could be asked.');
  const comm = kernel.createComm(TARGET);
  const onStatus = (_, status) => GONE[status] && lost(GONE[status]);
  const onConnection = (_, status) => status !== 'connected' && lost('The connection to the kernel was lost.');
  const onChange = () => lost('The document has another kernel now.');
  comm.onMsg = ({ content, buffers }) => heard(content.data, buffers ?? []);
  comm.onClose = () => lost(NO_TARGET);
  kernel.statusChanged.connect(onStatus);
  kernel.connectionStatusChanged.connect(onConnection);
  context.kernelChanged.connect(onChange);
  const sent = ({ done }) => void done.catch(() => {}); // one that ended replies no more, and its status says so
  sent(comm.open());
  return {
    send: (message) => sent(comm.send(message)),
    close() {
      kernel.statusChanged.disconnect(onStatus);
      kernel.connectionStatusChanged.disconnect(onConnection);
      context.kernelChanged.disconnect(onChange);
      comm.onClose = null;
      if (!comm.isDisposed && kernel.status !== 'dead') sent(comm.close());
    },
  };
};
