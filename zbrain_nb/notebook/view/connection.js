// The connection that a feed lives by: what there is comes over HTTP, what happens after that by one WebSocket. A lost
// one is tried again for as long as it takes. After a short break the socket itself sends what was missed (`after=`);
// after a long one, or where the server has forgotten it (`reset`), everything is loaded again. What has ended, or is
// unknown, is not followed, only looked at now and then while the page is seen; so is what the server will not let who
// looks follow any more, which it says when it closes the socket.
import { Refused, Unreached, serverAt } from './ask.js';

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 30_000;
const OPEN_MS = 10_000;
const QUIET_MS = 40_000; // the server sends something at least every 15 s, and browsers do not say when it stops
const LOOK_MS = 5_000;
const SHORT_BREAK_MS = 60_000; // what was missed in a longer one is more than what is loaded
const IDLE_MS = 10_000; // between looks at what is not followed; twice as long each time that there is no answer to it
const LONGEST_IDLE_MS = 300_000;
/** Codes by which the server closes a socket for good, with the reason: `SocketEnd` in `events.py` has them. */
export const UNKNOWN_CALLER = 1008;
export const NO_MEMBER = 4403;

/** Thrown by `load`: the server answers, but does not know what is followed. */
export class Unknown extends Error {}

/** What to catch errors with of requests for what is followed: that there is no such thing means `Unknown`. */
export function unknownIfMissing(error) {
  throw error.status === 404 ? new Unknown(error.message) : error;
}

export class Connection {
  #feed;
  #server;
  #source;
  #socket = null;
  #turn = 0; // callbacks of an older try find another number here and do nothing
  #tries = 0;
  #timer = null; // of the next try, or look
  #watch = null; // of the silent socket
  #seq = null; // up to where everything was heard
  #vain = 0; // looks without an answer, one after the other
  #isClosed = false;
  #out = null; // why the server lets who looks follow no more
  #online = () => void this.resume();
  #seen = () => void this.#look();

  /**
   * @param {object} feed told of changes by `tell()` and by what is set on it: `connection` ("live", "reconnecting" or
   *   "unknown"), `heardAt`, `nextTryAt`, and `refusal`, why it is not live, in words for a reader. One that has
   *   `ended` is loaded but not followed; one that is still `loading` when it breaks is loaded again
   * @param {string | object} server where to ask: the address of the API, or what is a server already
   * @param {object} source
   * @param {() => string} source.topic what to follow
   * @param {(current: () => boolean) => Promise<number>} source.load load all there is, and say from which event on to
   *   follow; what is loaded once `current` says no is not to be shown
   * @param {(event: object) => void} source.take take one event
   * @param {() => boolean} [source.isOver] say whether nothing comes any more that is followed: it has `ended`, if left
   *   out
   * @param {() => Promise<boolean>} [source.look] say whether what has ended is to be loaded again
   * @param {() => void} [source.forget] drop what is here: numbers of the events begin anew
   */
  constructor(feed, server, source) {
    this.#feed = feed;
    this.#server = serverAt(server);
    this.#source = source;
  }

  /** Begin from the beginning, whatever went on. */
  connect() {
    this.#out = null;
    return this.#begin();
  }

  #begin() {
    this.#seq = null;
    this.#tries = 0;
    return this.#try();
  }

  /** Try at once, if it would try again later. */
  async resume() {
    if (this.#feed.connection === 'reconnecting') await this.#try();
  }

  /** Hold no socket, and try no more, whoever asks: an act may get its answer when its view is gone. */
  close() {
    this.#isClosed = true;
    this.#drop();
  }

  #drop() {
    this.#turn += 1;
    clearTimeout(this.#timer);
    clearInterval(this.#watch);
    removeEventListener('online', this.#online);
    document.removeEventListener('visibilitychange', this.#seen);
    if (this.#socket) {
      this.#socket.onclose = null;
      this.#socket.close();
    }
    this.#socket = null;
  }

  /** Give up the connection and try again in a while; after an error from the beginning. */
  lose(error = null) {
    this.#drop();
    const feed = this.#feed;
    if (error) {
      this.#seq = null;
      feed.refusal = error instanceof Refused ? error.told : null;
    }
    feed.connection = 'reconnecting';
    const wait = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#tries) * (0.75 + Math.random() / 2);
    this.#tries += 1;
    feed.nextTryAt = Date.now() + wait;
    this.#timer = setTimeout(() => void this.#try(), wait);
    addEventListener('online', this.#online);
    feed.tell();
  }

  async #try() {
    if (this.#isClosed) return;
    this.#drop();
    const feed = this.#feed;
    const turn = this.#turn;
    const current = () => turn === this.#turn;
    feed.nextTryAt = null;
    feed.tell();
    if (this.#seq == null || feed.loading || Date.now() - feed.heardAt > SHORT_BREAK_MS) {
      try {
        this.#seq = await this.#source.load(current);
      } catch (error) {
        if (!current()) return;
        const isRefused = this.#out != null && (error.status === 401 || error.status === 403); // as was said already
        if (!(error instanceof Unknown || isRefused)) return this.lose(error);
        this.#drop();
        feed.refusal = this.#out;
        feed.connection = 'unknown';
        this.#rest();
        return feed.tell();
      }
      if (!current()) return;
      feed.heardAt = Date.now();
      feed.refusal = this.#out = null;
    }
    // Of what has ended nothing comes any more: fifty finished views on a page hold no socket.
    if (!this.#isOver && !(await this.#open(current))) {
      this.#seq = current() ? null : this.#seq; // the next try asks over HTTP, where a server can say what it has
      const refused = current() ? await this.#refusal() : null;
      return current() ? this.lose(refused) : undefined;
    }
    if (!current()) return;
    feed.connection = 'live';
    this.#tries = 0;
    this.#vain = 0;
    if (this.#isOver) this.#rest();
    feed.tell();
  }

  get #isOver() {
    return this.#source.isOver?.() ?? this.#feed.ended;
  }

  /** Hold no socket, and look again in a while; a page that nobody sees waits until it is seen. */
  #rest() {
    this.#drop();
    if (this.#feed.connection !== 'unknown' && !this.#source.look) return;
    document.addEventListener('visibilitychange', this.#seen);
    const wait = Math.min(LONGEST_IDLE_MS, IDLE_MS * 2 ** this.#vain);
    this.#timer = setTimeout(this.#seen, wait);
  }

  async #look() {
    if (document.hidden) return;
    this.#drop();
    const turn = this.#turn;
    let changed = this.#feed.connection === 'unknown';
    this.#vain += 1;
    try {
      if (!changed) {
        changed = await this.#source.look();
        this.#vain = 0;
      }
    } catch {
      // What is shown has ended, and is right without an answer.
    }
    if (turn !== this.#turn) return;
    if (changed) await this.#begin();
    else this.#rest();
  }

  /** Why no socket was opened, if that can be learned: a browser does not say what it was answered. */
  async #refusal() {
    try {
      const [{ quotas }] = await this.#server.ask('overview');
      const full = quotas.find(({ quota, used, limit }) => quota === 'sockets' && used >= limit);
      if (!full) return null;
      const message = `the ${full.of} ${full.name} follows events by ${full.used} connections already. Close views that are not needed.`;
      return new Refused(429, { error: { message } });
    } catch (error) {
      return error instanceof Unreached ? error : null; // else the next try will say
    }
  }

  #open(current) {
    const topics = encodeURIComponent(this.#source.topic());
    const socket = this.#server.events(`topics=${topics}&after=${this.#seq}`);
    this.#socket = socket;
    return new Promise((resolve) => {
      const late = setTimeout(() => resolve(false), OPEN_MS);
      socket.onopen = () => {
        clearTimeout(late);
        if (!current()) return;
        this.#feed.heardAt = Date.now();
        this.#watch = setInterval(() => Date.now() - this.#feed.heardAt >= QUIET_MS && this.lose(), LOOK_MS);
        socket.onclose = ({ code, reason }) => {
          if (code !== UNKNOWN_CALLER && code !== NO_MEMBER) return this.lose();
          this.#out = reason;
          void this.#begin(); // which shows what of it there still is
        };
        resolve(true);
      };
      socket.onclose = () => resolve(false);
      socket.onmessage = ({ data }) => current() && this.#hear(JSON.parse(data));
    });
  }

  #hear(events) {
    const feed = this.#feed;
    feed.heardAt = Date.now();
    for (const event of events) {
      if (event.kind === 'reset') {
        this.#source.forget?.();
        return void this.connect();
      }
      this.#seq = Math.max(this.#seq, event.seq);
      this.#source.take(event);
    }
    if (this.#isOver) this.#rest();
    feed.tell();
  }
}
