// Rich outputs of a job. Where Jupyter's renderers are at hand they are handed in; the ones here serve pages
// without them (VS Code, Colab) and let nothing of a job run in the page's own origin.
import { button, bytes, h, plural, takeFocus } from './elements.js';
import { cut, fill, newBudget, plainText, spend } from './text.js';
import { failureSection } from './trace.js';
import { errorText } from './words.js';

const MAX_SHOWN = 100; // at first, and so many more at a time
const IMAGES = ['image/png', 'image/jpeg', 'image/gif', 'image/webp'];

/** What a job takes or gives: a text as it is, all else as JSON. */
export const valueText = (value) => (typeof value === 'string' ? value : JSON.stringify(value, null, 2));
/** What stands in an output: of texts there may be a list, a line each. */
export const textOf = (value) => (Array.isArray(value) ? value.join('') : valueText(value));

/** @param {object} [budget] that texts of the same pane share */
export function renderPlainly(output, host, budget = newBudget()) {
  const { data = {} } = output;
  const words = plainText(cut(textOf(data['text/plain'] ?? '')));
  if (data['text/html']) host.append(frame(textOf(data['text/html']), getComputedStyle(host)));
  else if (data['image/svg+xml']) {
    const source = textOf(data['image/svg+xml']);
    const image = () => h('img', { src: `data:image/svg+xml,${encodeURIComponent(source)}`, alt: words });
    const draw = () => {
      host.replaceChildren(image());
      takeFocus(host);
    };
    const isMuch = source.length > budget.drawn;
    if (!isMuch) spend(budget, 'drawn', source.length);
    host.append(isMuch ? button(`Show a drawing of ${bytes(source.length)}`, { onclick: draw }) : image());
  } else {
    const image = IMAGES.find((type) => data[type]);
    if (image)
      host.append(h('img', { src: `data:${image};base64,${textOf(data[image]).replace(/\s/g, '')}`, alt: words }));
    else
      host.append(
        fill(h('pre'), textOf(data['text/markdown'] ?? data['text/latex'] ?? data['text/plain'] ?? data), budget),
      );
  }
}
function frame(source, { color, fontFamily, fontSize }) {
  // Opaque origin: scripts of a plot run, but reach neither the notebook nor the server.
  const size =
    '<script>new ResizeObserver(() => parent.postMessage({zbrainHeight: document.documentElement.offsetHeight}, "*")).observe(document.documentElement)</script>';
  const looks = `<style>body{margin:0;color:${color};font:${fontSize} ${fontFamily}}table{border-collapse:collapse;font-size:12px}th,td{padding:3px 12px;text-align:right}</style>`;
  const el = h('iframe', {
    sandbox: 'allow-scripts',
    title: 'Output',
    srcdoc: `<!doctype html><meta charset="utf-8">${looks}${source}${size}`,
  });
  const listen = ({ source: from, data }) => {
    if (!el.isConnected) window.removeEventListener('message', listen);
    else if (from === el.contentWindow && data?.zbrainHeight > 0)
      el.style.height = `${Math.min(2000, data.zbrainHeight + 4)}px`;
  };
  window.addEventListener('message', listen);
  return el;
}

/** `read` gives the outputs to show, now; `title` stands above them. */
export function outputsPane(label, title, read, renderOutput) {
  const nodes = new Map();
  const budget = newBudget();
  const drop = (output) => {
    const { node, dispose, took } = nodes.get(output);
    for (const what of Object.keys(took)) budget[what] += took[what];
    dispose?.();
    node.remove();
    nodes.delete(output);
  };
  const box = h('div', { class: 'zb-out', role: 'group', 'aria-label': label });
  let most = MAX_SHOWN;
  const earlier = button('', {
    class: 'zb-btn-bare',
    hidden: true,
    onclick: () => {
      most += MAX_SHOWN;
      sync();
    },
  });
  const el = h('div', { class: 'zb-sec' }, title && h('div', { class: 'zb-h' }, title), earlier, box);

  function make(output, after) {
    const node = h('div', { class: 'zb-output' });
    const host = h('div', { class: 'zb-shown' });
    node.append(host);
    // Renderers measure themselves, so they are in the page first; and in their place, for a frame that moves loads anew.
    box.insertBefore(node, after ? after.nextElementSibling : box.firstChild);
    const before = { ...budget };
    const dispose = draw(output, host);
    const took = Object.fromEntries(Object.keys(budget).map((what) => [what, before[what] - budget[what]]));
    return { node, dispose, took };
  }
  function draw(output, host) {
    const { output_type: type } = output;
    if (type === 'stream') host.append(fill(h('pre'), textOf(output.text), budget));
    else if (type === 'error') host.append(failureSection({ text: errorText({ error: output }), error: output }, budget));
    else return renderOutput(output, host, budget);
    return null;
  }
  // A keyboard user has to be able to scroll what a pointer can.
  const sizes = new ResizeObserver(() => {
    if (box.scrollHeight > box.clientHeight) box.tabIndex = 0;
    else box.removeAttribute('tabindex');
  });
  sizes.observe(box);

  function sync() {
    const all = read();
    const wanted = all.slice(-most);
    const hidden = all.length - wanted.length;
    earlier.hidden = !hidden;
    earlier.textContent = `Show ${plural(hidden, 'earlier output')}`;
    if (wanted.length === nodes.size && wanted.every((output) => nodes.has(output))) return;
    const top = box.scrollTop;
    box.style.minHeight = `${box.offsetHeight}px`; // a plot drawn anew must not make the page jump
    [...nodes.keys()].filter((output) => !wanted.includes(output)).forEach(drop);
    let after = null; // what stays keeps its order, and is not touched
    for (const output of wanted) {
      if (!nodes.has(output)) nodes.set(output, make(output, after));
      after = nodes.get(output).node;
    }
    box.scrollTop = top;
    requestAnimationFrame(() => (box.style.minHeight = ''));
  }

  return {
    el,
    sync,
    dispose() {
      sizes.disconnect();
      [...nodes.keys()].forEach(drop);
    },
  };
}
