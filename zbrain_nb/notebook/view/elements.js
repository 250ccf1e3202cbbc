// Small pieces of DOM that every part of the view is made of: elements, shapes, buttons, times.
// Data reach the page only as text nodes and attributes made here; nothing parses a string as HTML.

const SVG = 'http://www.w3.org/2000/svg';

function put(el, props, kids) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value == null || (value === false && !name.startsWith('aria-'))) continue;
    if (name.startsWith('on')) el.addEventListener(name.slice(2), value);
    else if (name === 'vars') for (const [key, each] of Object.entries(value)) el.style.setProperty(key, each);
    else el.setAttribute(name, value === true && !name.startsWith('aria-') ? '' : value);
  }
  for (const kid of kids.flat(3)) if (kid != null && kid !== false) el.append(kid); // of arguments there may be too many
  return el;
}
export const h = (tag, props, ...kids) => put(document.createElement(tag), props, kids);
export const s = (tag, props, ...kids) => put(document.createElementNS(SVG, tag), props, kids);
let lastId = 0;
export const newId = (prefix) => `zb-${prefix}-${++lastId}`;

export const STATE_WORDS = {
  pending: 'Pending',
  running: 'Running',
  retrying: 'Retrying',
  succeeded: 'Succeeded',
  cached: 'Cached',
  failed: 'Failed',
  canceled: 'Canceled',
  reconnecting: 'Reconnecting',
  unknown: 'Unknown',
};

const ring = (extra) =>
  s('circle', { cx: 7, cy: 7, r: 5.25, fill: 'none', stroke: 'currentColor', 'stroke-width': 1.5, ...extra });
const stroke = (d, color = 'currentColor', width = 1.5, extra = {}) =>
  s('path', {
    d,
    fill: 'none',
    stroke: color,
    'stroke-width': width,
    'stroke-linecap': 'round',
    'stroke-linejoin': 'round',
    ...extra,
  });
const disc = () => s('circle', { cx: 7, cy: 7, r: 6, fill: 'currentColor' });
const GLYPHS = {
  pending: () => [ring({ 'stroke-dasharray': '2.1 2.02' })],
  running: () => [
    ring({ opacity: 0.28 }),
    stroke('M7 1.75A5.25 5.25 0 0 1 12.25 7', 'currentColor', 1.75, { class: 'zb-spin' }),
  ],
  retrying: () => [stroke('M12.2 7.6A5.25 5.25 0 1 1 10.6 3.2'), stroke('M10.9 .9v2.5H8.4')],
  succeeded: () => [disc(), stroke('M4.3 7.2l1.9 1.9 3.6-4', 'var(--zb-bg)')],
  cached: () => [ring(), stroke('M4.6 7.2l1.7 1.7 3.1-3.5')],
  failed: () => [disc(), stroke('M4.9 4.9l4.2 4.2M9.1 4.9L4.9 9.1', 'var(--zb-bg)')],
  canceled: () => [ring(), stroke('M3.5 10.5l7-7')],
  reconnecting: () => [
    ring({ 'stroke-dasharray': '8 8.5', 'stroke-dashoffset': 4 }),
    s('circle', { cx: 7, cy: 7, r: 1.25, fill: 'currentColor' }),
  ],
};
const ICONS = {
  twist: 'M4.5 2.5L8.5 6l-4 3.5',
  more: 'M2.5 7h.01M7 7h.01M11.5 7h.01',
  copy: 'M5 4.5h6.5V12H5zM2.5 9.5V2h6.5',
  down: 'M7 2v7.5M3.8 6.6L7 9.8l3.2-3.2M2.5 12h9',
  apart: 'M4.6 6.4L3 8a2.1 2.1 0 0 0 3 3l1.6-1.6M9.4 7.6L11 6a2.1 2.1 0 0 0-3-3L6.4 4.6M2.5 2.5l9 9',
  tall: 'M4 5.5L7 2.5l3 3M4 8.5l3 3 3-3',
  check: 'M3 7.5l2.8 2.8L11 4.5',
  open: 'M8 2.5h3.5V6M11.5 2.5L6.5 7.5M9.5 8v3.5h-7v-7H6',
};
GLYPHS.unknown = GLYPHS.reconnecting;
export const icon = (name) =>
  s(
    'svg',
    { viewBox: name === 'twist' ? '0 0 12 12' : '0 0 14 14', 'aria-hidden': 'true' },
    stroke(ICONS[name], 'currentColor', name === 'more' ? 2.2 : 1.5),
  );
export const stateMark = (face, word) =>
  h(
    'span',
    { class: 'zb-state', 'data-state': face },
    s('svg', { class: 'zb-glyph', viewBox: '0 0 14 14', 'aria-hidden': 'true' }, GLYPHS[face]()),
    h('span', { class: 'zb-word' }, word),
  );
export const button = (label, props = {}, shape) =>
  h('button', { type: 'button', ...props, class: `zb-btn ${props.class ?? ''}` }, shape && icon(shape), label);
/** What stands in place of Retry while it asks; last what harms nobody, for that comes to lie under the pointer. */
export const answers = (feed, verb) => [
  button('Run as me', { disabled: feed.acting != null, onclick: () => feed.act(verb, true) }),
  button('No', { 'data-safe': true, onclick: () => feed.ask(false) }),
];
/** Have it spoken that something went wrong, once each time: the notice that shows it is not. */
export function speak(status, alert) {
  const { alert: before = '' } = status.dataset;
  if (before === alert) return;
  status.dataset.alert = alert;
  if (alert || status.textContent === before) status.textContent = alert; // nothing that is over is left to be found
}
/** It does no harm, so it may be pressed as soon as it is there: the connection may be back a moment later. */
export const tryNow = (feed) => button('Try now', { class: 'zb-now', onclick: () => feed.act('reconnect') });
/** What the keyboard gets in `box` after it was built anew: never what a held or hasty key must not press. */
export const toFocus = (box) => box?.querySelector('[data-safe]') ?? box?.querySelector('button:not([disabled])');
export const iconButton = (label, shape, props = {}) =>
  h(
    'button',
    { type: 'button', title: label, 'aria-label': label, ...props, class: 'zb-btn zb-btn-bare zb-btn-icon' },
    icon(shape),
  );
export const twist = (open, label, controls, onclick) =>
  h(
    'button',
    {
      type: 'button',
      class: 'zb-twist',
      'aria-expanded': open,
      'aria-controls': controls,
      'aria-label': label,
      onclick,
    },
    icon('twist'),
  );
export const progressBar = (label, quiet) =>
  h(
    'span',
    {
      class: `zb-bar${quiet ? ' zb-bar-quiet' : ''}`,
      role: 'progressbar',
      'aria-label': label,
      'aria-valuemin': 0,
      'aria-valuemax': 100,
    },
    h('i'),
  );

/**
 * Watch the size of `el`, by which `schedule` has rows drawn in the next frame. While `el` is not rendered it has none to
 * go by, so whoever draws asks `isRendered()` before.
 */
export function watchSize(el, schedule) {
  let wasRendered = false;
  const observer = new ResizeObserver(schedule);
  observer.observe(el);
  return {
    isRendered() {
      const isRendered = el.getClientRects().length > 0;
      // The observer sees sizes at the end of a frame alone. JupyterLab, once its theme has changed, hides itself until
      // a later callback of the same frame: so look once more.
      if (wasRendered && !isRendered) schedule();
      wasRendered = isRendered;
      return isRendered;
    },
    stop: () => observer.disconnect(),
  };
}
/** Let `box` have the keyboard, in place of a button that is gone. */
export function takeFocus(box) {
  if (!box.hasAttribute('tabindex')) box.tabIndex = -1;
  box.focus({ preventScroll: true });
}
/**
 * Put what `make` makes of the items (a node, or some) into `box`: so many at first, and as many more each time that is
 * asked for. Returns what belongs on the page.
 */
export function fillBy(most, box, items, make) {
  let count = 0;
  const show = () => {
    box.append(...items.slice(count, count + most).flatMap((item, i) => make(item, count + i)));
    count = Math.min(items.length, count + most);
    const left = items.length - count;
    more.hidden = !left;
    more.textContent = `Show ${left > most ? `${most.toLocaleString('en')} of ` : ''}${left.toLocaleString('en')} more`;
  };
  const more = button('', {
    class: 'zb-btn-bare',
    onclick: () => {
      show();
      if (more.hidden) takeFocus(box);
    },
  });
  show();
  return [box, more];
}

/** Whether it is there now: a browser may refuse. */
export async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // The clipboard API is missing on plain-http origines other than localhost, where Jupyter often runs.
    const area = h('textarea', { style: 'position:fixed;opacity:0', 'aria-hidden': 'true' });
    const before = document.activeElement;
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    before?.focus({ preventScroll: true });
    return done;
  }
}
/** @param {string | () => string} text or what gives it when it is wanted; it has a label then */
export function copyButton(text, label = 'Copy', shape) {
  const words = h('span', {}, label);
  return button(
    words,
    {
      class: 'zb-btn-bare',
      'aria-label': label === 'Copy' || label === text ? `Copy ${text}` : null,
      title: shape ? 'Copy' : null,
      onclick: async () => {
        words.textContent = (await toClipboard(typeof text === 'string' ? text : text())) ? 'Copied' : 'Not copied';
        setTimeout(() => (words.textContent = label), 1500);
      },
    },
    shape,
  );
}

const two = (n) => String(n).padStart(2, '0');
export function clock(seconds) {
  const t = Math.max(0, Math.round(seconds));
  const tail = `${two(t % 60)}`;
  return t >= 3600
    ? `${Math.floor(t / 3600)}:${two(Math.floor(t / 60) % 60)}:${tail}`
    : `${Math.floor(t / 60)}:${tail}`;
}
export const span = (seconds) => (seconds < 10 ? `${Math.max(0, seconds).toFixed(1)} s` : clock(seconds));
export const timeLeft = (seconds) =>
  seconds < 15
    ? 'seconds left'
    : seconds < 90
      ? `about ${clock(Math.ceil(seconds / 5) * 5)} left`
      : seconds < 3600
        ? `about ${Math.round(seconds / 60)} min left`
        : `about ${(seconds / 3600).toFixed(1)} h left`;
export function timeOfDay(ms, seconds = true) {
  const date = new Date(ms);
  const time = `${two(date.getHours())}:${two(date.getMinutes())}${seconds ? `:${two(date.getSeconds())}` : ''}`;
  if (new Date().toDateString() === date.toDateString()) return time;
  const near = Math.abs(Date.now() - ms) < 6 * 86_400_000;
  const day = date.toLocaleDateString(
    'en-GB',
    near ? { weekday: 'short' } : { day: 'numeric', month: 'short', year: 'numeric' },
  );
  return `${day} ${time}`;
}
export function bytes(n) {
  if (n < 1000) return `${n} B`;
  const units = ['KB', 'MB', 'GB', 'TB'];
  let size = n / 1000;
  let unit = 0;
  while (size >= 999.5 && unit < 3) {
    size /= 1000;
    unit += 1;
  }
  return `${size.toFixed(size < (unit ? 99.5 : 9.95) ? 1 : 0)} ${units[unit]}`;
}
/** An amount of memory in MiB. */
export const memorySize = (mib) =>
  mib >= 1024 ? `${Number((mib / 1024).toFixed(1))} GB` : `${Number(Number(mib).toFixed(mib < 10 ? 1 : 0))} MB`;
export const plural = (n, noun) => `${n.toLocaleString('en')} ${noun}${n === 1 ? '' : 's'}`;
