// What a job leaves: its value, variables, artifacts, and the reference by which code finds it again.
import { ownHeaders } from './ask.js';
import { bytes, copyButton, h, icon } from './elements.js';
import { textOf } from './outputs.js';
import { plainText, visibleName } from './text.js';

const PICTURE = /\.(png|jpe?g|gif|webp)$/i;
const TEXT = /\.(txt|log|md|csv|tsv|json|ya?ml|toml|py)$/i;
const TABLE = /\.(csv|tsv)$/i;
const MAX_PICTURE = 4_000_000;

export const valueSection = (value) =>
  h(
    'div',
    { class: 'zb-sec' },
    h('div', { class: 'zb-h' }, 'Value'),
    h('pre', { class: 'zb-value', tabindex: 0, role: 'group', 'aria-label': 'Value' }, plainText(textOf(value))),
  );

export const keptSection = ({ title, variables, reference }) =>
  h(
    'div',
    { class: 'zb-sec zb-kept' },
    variables.length > 0 &&
      h(
        'div',
        {},
        h('div', { class: 'zb-h' }, title),
        h(
          'table',
          { class: 'zb-vars', 'aria-label': title },
          h(
            'tbody',
            {},
            variables.map(({ name, type, summary, size }) =>
              h(
                'tr',
                {},
                h('td', { class: 'zb-mono zb-cut', title: visibleName(name) }, h('b', {}, visibleName(name))),
                h('td', { class: 'zb-cut', title: plainText(summary || type) }, plainText(summary || type)),
                h('td', { class: 'zb-mute' }, bytes(size)),
                h('td', {}, copyButton(`job.vars["${name}"]`, `job.vars["${visibleName(name)}"]`, 'copy')),
              ),
            ),
          ),
        ),
      ),
    reference &&
      h(
        'div',
        { class: 'zb-copy' },
        h('code', { tabindex: 0, role: 'group', 'aria-label': 'Reference to this job' }, reference),
        copyButton(reference),
      ),
  );

export const artifactsSection = ({ artifacts, urls }) =>
  h(
    'div',
    { class: 'zb-sec' },
    h('div', { class: 'zb-h' }, 'Artifacts ', h('span', { class: 'zb-mute' }, String(artifacts.length))),
    h(
      'ul',
      { class: 'zb-arts' },
      artifacts.map(({ name, size }, i) =>
        h(
          'li',
          {},
          h('div', { class: 'zb-prev' }, preview(name, size, urls[i])),
          h(
            'p',
            {},
            h('b', { class: 'zb-cut', title: visibleName(name) }, visibleName(name)),
            h('span', { class: 'zb-mute zb-size' }, bytes(size)),
            urls[i] &&
              h(
                'a',
                {
                  class: 'zb-btn zb-btn-bare zb-btn-icon',
                  href: urls[i],
                  download: name.split('/').at(-1),
                  title: `Download ${visibleName(name)}`,
                  'aria-label': `Download ${visibleName(name)}`,
                },
                icon('down'),
              ),
          ),
        ),
      ),
    ),
  );

function preview(name, size, url) {
  const none = () =>
    h(
      'span',
      { class: 'zb-small zb-mute' },
      TEXT.test(name) || PICTURE.test(name) ? 'no preview' : 'binary, no preview',
    );
  if (!url || size === 0) return size === 0 ? h('span', { class: 'zb-small zb-mute' }, 'empty') : none();
  if (PICTURE.test(name) && size <= MAX_PICTURE) {
    const img = h('img', { src: url, alt: '', loading: 'lazy', onerror: () => img.replaceWith(none()) });
    return img;
  }
  if (!TEXT.test(name)) return none();
  const slot = h('span', { class: 'zb-peek' });
  fetch(url, { credentials: 'same-origin', headers: { ...ownHeaders(), Range: 'bytes=0-999' } })
    .then(async (answer) => {
      if (!answer.ok) throw new Error(answer.statusText);
      const lines = (await answer.text()).slice(0, 1000).split('\n').slice(0, 5);
      slot.append(TABLE.test(name) ? table(name, lines.slice(0, 4)) : h('pre', {}, plainText(lines.join('\n'))));
    })
    .catch(() => slot.replaceChildren(none()));
  return slot;
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
          line
            .split(/[,\t]/)
            .slice(0, 4)
            .map((cell) => h('td', {}, plainText(cell).slice(0, 12))),
        ),
      ),
    ),
  );
