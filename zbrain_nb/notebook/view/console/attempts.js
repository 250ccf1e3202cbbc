// How a job was tried, on its page: each attempt, and the jobs that repeat it by hand. What moves with the clock is
// patched, so that what a reader opened in the tables stays open.
import { STATE_WORDS, fillBy, h, span, stateMark, timeOfDay } from '../elements.js';
import { fillBriefly, visible, visibleName } from '../text.js';
import { attemptsOf, nextTryOf, triesOf, usedOf } from '../words.js';

const MOST_ROWS = 100; // of a table at first, and so many more at a time

export function attemptsSection(feed, attempts) {
  const all = Math.max(attempts.at(-1)?.attempt ?? 0, attemptsOf(feed.job));
  const next = (triesOf(feed) ?? []).some(({ state }) => state === 'retrying');
  if (!attempts.length) return null;
  const used = attempts.map((one) => Object.fromEntries(usedOf(one)));
  const known = ['Peak memory', 'CPU time'].filter((name) => used.some((each) => each[name]));
  return h(
    'div',
    { class: 'zb-sec' },
    table(
      'Attempts',
      ['Attempt', 'State', 'Worker', 'Started', 'Ran', ...known, 'How it ended'],
      [
        next && [
          `${feed.job.attempt + 1} of ${all}`,
          stateMark('retrying', 'Next'),
          '',
          '',
          '',
          ...known.map(() => ''),
          h('span', { class: 'zb-next' }, nextTryOf(feed)),
        ],
        ...attempts.toReversed().map((one, at) => {
          const code = one.exit_code != null && one.state !== 'succeeded' ? `Exit code ${one.exit_code}. ` : '';
          return [
            `${one.attempt} of ${all}`,
            one.state === 'lost' ? stateMark('reconnecting', 'Lost') : stateMark(one.state, STATE_WORDS[one.state]),
            visibleName(one.worker_id ?? ''),
            one.started_at ? timeOfDay(Date.parse(one.started_at)) : '',
            h('span', { class: at === 0 ? 'zb-ran' : null }, ranOf(feed, one)),
            ...known.map((name) => used.at(-1 - at)[name] ?? ''),
            one.state === 'running' ? words('running') : words(`${(one.reason ?? '').includes('code') ? '' : code}${one.reason ?? ''}`),
          ];
        }),
      ].filter(Boolean),
    ),
  );
}

/** Say anew in `box` when the next attempt starts, and how long the last one has run. */
export function patchAttempts(box, feed, attempts) {
  const put = (node, text) => {
    if (node && node.textContent !== text) node.textContent = text;
  };
  put(box.querySelector('.zb-next'), nextTryOf(feed));
  if (attempts.length) put(box.querySelector('.zb-ran'), ranOf(feed, attempts.at(-1)));
}

function ranOf(feed, { started_at: start, finished_at: end }) {
  if (!start) return '';
  return span(((end ? Date.parse(end) : feed.now) - Date.parse(start)) / 1000);
}

export function chainSection(feed, chain, jobUrl) {
  if (chain.length < 2) return null;
  return h(
    'div',
    { class: 'zb-sec' },
    h('div', { class: 'zb-h' }, 'Tried again by hand ', h('span', { class: 'zb-mute' }, 'each a job of its own, the same code and inputs')),
    table(
      'Jobs of this chain',
      ['Job', 'State', 'Submitted', 'By', 'Reason'],
      chain.map((job) => [
        job.id === feed.job.id
          ? h('b', {}, 'this job')
          : h('a', { href: jobUrl(job.id), class: 'zb-mono' }, `${job.id.slice(0, 13)}\u2026`),
        stateMark(job.state, STATE_WORDS[job.state]),
        timeOfDay(Date.parse(job.created_at)),
        visibleName(job.owner),
        words(job.reason ?? ''),
      ]),
    ),
  );
}

const words = (text) => fillBriefly(h('span', { class: 'zb-mute' }), visible(text));
function table(label, heads, lines) {
  const line = (cells) => h('tr', {}, cells.map((each) => h('td', {}, each)));
  const [rows, more] = fillBy(MOST_ROWS, h('tbody'), lines, line);
  return h(
    'div',
    { class: 'zb-scroll', tabindex: 0, role: 'group', 'aria-label': label },
    h(
      'table',
      { class: 'zb-plain' },
      h('thead', {}, h('tr', {}, heads.map((each) => h('th', { scope: 'col' }, each)))),
      rows,
    ),
    more,
  );
}
