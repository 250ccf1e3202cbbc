// What a job leaves: its value, variables, artifacts, and the reference by which code finds it again.
import { ownHeaders } from './ask.js';
import { bytes, copyButton, fillBy, h, icon } from './elements.js';
import { valueText } from './outputs.js';
import { cut, fill, plainText, visibleName } from './text.js';

const PICTURE = /\.(png|jpe?g|gif|webp)$/i;
const TEXT = /\.(txt|log|md|csv|tsv|json|ya?ml|toml|py)$/i;
const TABLE = /\.(csv|tsv)$/i;
const MAX_PICTURE = 4_000_000;
const MAX_SENT_PICTURE = 500_000; // through the kernel
const MOST_ROWS = 100; // variables, and artifacts, at first, and so many more at a time
const PEEK_BYTES = 1_000;
const KEPT_MS = 60_000; // a file that is being saved

export const valueSection = (value) =>
  h(
    'div',
    { class: 'zb-sec' },
    h('div', { class: 'zb-h' }, 'Value'),
    fill(h('pre', { class: 'zb-value', tabindex: 0, role: 'group', 'aria-label': 'Value' }), valueText(value)),
  );

export const keptSection = ({ title, variables, reference }) =>
  h(
    'div',
    { class: 'zb-sec zb-kept' },
    variables.length > 0 && variablesTable(title, variables),
    reference &&
      h(
        'div',
        { class: 'zb-copy' },
        h('code', { tabindex: 0, role: 'group', 'aria-label': 'Reference to this job' }, reference),
        copyButton(reference),
      ),
  );
function variablesTable(title, variables) {
  const [rows, more] = fillBy(MOST_ROWS, h('tbody'), variables, ({ name, type, summary, size }) => {
    const words = plainText(cut(String(summary || type)));
    return h(
      'tr',
      {},
      h('td', { class: 'zb-mono zb-cut', title: visibleName(name) }, h('b', {}, visibleName(name))),
      h('td', { class: 'zb-cut', title: words }, words),
      h('td', { class: 'zb-mute' }, bytes(size)),
      h('td', {}, copyButton(`job.vars["${name}"]`, `job.vars["${visibleName(name)}"]`, 'copy')),
    );
  });
  return h('div', {}, h('div', { class: 'zb-h' }, title), h('table', { class: 'zb-vars', 'aria-label': title }, rows), more);
}

/** `urls` says where each is; where it has no address, `read(name, first)` gives it, or its first bytes. */
export const artifactsSection = ({ artifacts, urls }, read = null) =>
  h(
    'div',
    { class: 'zb-sec' },
    h('div', { class: 'zb-h' }, 'Artifacts ', h('span', { class: 'zb-mute' }, artifacts.length.toLocaleString('en'))),
    fillBy(MOST_ROWS, h('ul', { class: 'zb-arts' }), artifacts, ({ name, size }, i) =>
      h(
        'li',
        {},
        h('div', { class: 'zb-prev' }, preview(name, size, urls[i] ?? (read && ((first) => read(name, first))))),
        h(
          'p',
          {},
          h('b', { class: 'zb-cut', title: visibleName(name) }, visibleName(name)),
          h('span', { class: 'zb-mute zb-size' }, bytes(size)),
          (urls[i] || read) && download(name, urls[i], read),
        ),
      ),
    ),
  );

function download(name, url, read) {
  const label = `Download ${visibleName(name)}`;
  const file = name.split('/').at(-1);
  const looks = { class: 'zb-btn zb-btn-bare zb-btn-icon', title: label, 'aria-label': label };
  if (url) return h('a', { ...looks, href: url, download: file }, icon('down'));
  const fetchIt = async () => {
    press.disabled = true;
    try {
      const here = URL.createObjectURL(await read(name));
      h('a', { href: here, download: file }).click();
      setTimeout(() => URL.revokeObjectURL(here), KEPT_MS);
    } catch (error) {
      press.replaceWith(h('span', { class: 'zb-small zb-mute', role: 'alert' }, error.message));
    }
    press.disabled = false;
  };
  const press = h('button', { ...looks, type: 'button', onclick: () => void fetchIt() }, icon('down'));
  return press;
}

/** `source` is an address, or a function that reads the first bytes. */
function preview(name, size, source) {
  const none = () =>
    h(
      'span',
      { class: 'zb-small zb-mute' },
      TEXT.test(name) || PICTURE.test(name) ? 'no preview' : 'binary, no preview',
    );
  if (!source || size === 0) return size === 0 ? h('span', { class: 'zb-small zb-mute' }, 'empty') : none();
  if (PICTURE.test(name)) {
    if (size > (typeof source === 'string' ? MAX_PICTURE : MAX_SENT_PICTURE)) return none();
    const img = h('img', { alt: '', loading: 'lazy', onerror: () => img.replaceWith(none()) });
    if (typeof source === 'string') img.src = source;
    else void showPicture(img, source).catch(() => img.replaceWith(none()));
    return img;
  }
  if (!TEXT.test(name)) return none();
  const slot = h('span', { class: 'zb-peek' });
  textAt(source)
    .then((text) => {
      const lines = text.slice(0, PEEK_BYTES).split('\n').slice(0, 5);
      slot.append(TABLE.test(name) ? table(name, lines.slice(0, 4)) : h('pre', {}, plainText(lines.join('\n'))));
    })
    .catch(() => slot.replaceChildren(none()));
  return slot;
}
async function textAt(source) {
  if (typeof source !== 'string') return (await source(PEEK_BYTES)).text();
  const range = { Range: `bytes=0-${PEEK_BYTES - 1}` };
  const answer = await fetch(source, { credentials: 'same-origin', headers: { ...ownHeaders(), ...range } });
  if (!answer.ok) throw new Error(answer.statusText);
  return answer.text();
}
async function showPicture(img, read) {
  img.src = URL.createObjectURL(await read(MAX_SENT_PICTURE));
  img.addEventListener('load', () => URL.revokeObjectURL(img.src), { once: true });
}
/** The cells of a row; a quoted one may hold the separator, and quotes twice. A row over several lines is cut there. */
function cellsOf(line, name) {
  const separator = /\.tsv$/i.test(name) ? '\t' : ',';
  const cells = `${separator}${line}`.matchAll(new RegExp(`${separator}(?:"((?:[^"]|"")*)"?|([^${separator}]*))`, 'g'));
  return Array.from(cells, ([, quoted, plain]) => quoted?.replaceAll('""', '"') ?? plain);
}
const table = (name, lines) =>
  h(
    'table',
    { 'aria-label': `First rows of ${visibleName(name)}` },
    h(
      'tbody',
      {},
      lines.filter(Boolean).map((line) =>
        h(
          'tr',
          {},
          cellsOf(line, name)
            .slice(0, 4)
            .map((cell) => h('td', {}, plainText(cell).slice(0, 12))),
        ),
      ),
    ),
  );
