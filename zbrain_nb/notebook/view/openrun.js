// The run of a group that is open: its own view, which gives way to that of what comes to stand in its place.
import { toFocus } from './elements.js';
import { settle } from './press.js';

export class OpenRun {
  #host;
  #feed;
  #renderRun;
  #changed;
  #opened = null;

  /**
   * @param {HTMLElement} host where it is shown
   * @param {object} feed of the group
   * @param {(el: HTMLElement, job: object) => {feed: object, shut: () => void}} renderRun makes the view of a run
   * @param {() => void} changed called when `refresh` has something to do
   */
  constructor(host, feed, renderRun, changed) {
    this.#host = host;
    this.#feed = feed;
    this.#renderRun = renderRun;
    this.#changed = changed;
  }

  /** Open the run of a place, or shut it if it is the one that is open. */
  toggle(place) {
    const isOpen = this.#opened?.place === place;
    this.shut();
    if (!isOpen) this.#show(place);
  }

  /** Show what stands in the place by now: the buttons of what is open would act on one that was repeated. */
  refresh() {
    if (!this.#opened) return;
    const { id, place, shown } = this.#opened;
    const now = this.#feed.jobs[place].id;
    if (id === now || shown.acting) return; // which may be submitting what stands there
    if (shown.job.id === now) {
      this.#opened.id = now;
      return;
    }
    const held = this.#host.contains(document.activeElement);
    this.shut();
    this.#show(place);
    for (const each of [id, now]) settle(this.#host, [each]);
    if (held) toFocus(this.#host)?.focus({ preventScroll: true });
  }

  shut() {
    this.#opened?.shut();
    this.#opened = null;
    this.#host.replaceChildren();
  }

  #show(place) {
    const job = this.#feed.jobs[place];
    const card = document.createElement('div');
    this.#host.replaceChildren(card);
    const { feed: shown, shut } = this.#renderRun(card, job);
    const off = shown.on(() => this.#hear());
    this.#opened = {
      id: job.id,
      place,
      shown,
      shut() {
        off();
        shut();
      },
    };
  }

  /** Let the group have what was submitted again here, where it is shown already. */
  #hear() {
    const { id, place, shown } = this.#opened;
    if (shown.acting) return;
    if (shown.job.id !== id) this.#feed.takeRepeat(shown.job);
    if (this.#feed.jobs[place].id !== id) this.#changed();
  }
}
