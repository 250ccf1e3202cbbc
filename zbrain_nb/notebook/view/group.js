// The view of many runs: `renderGroup(el, feed, {renderRun}) -> dispose`. A square a run, counts, failures by reason;
// the run that is picked shows its own view below, which `renderRun(el, job) -> {feed, shut}` makes.
import { againTitle, sameCellAnswerOf, sameCellNotice, sameCellOf } from './earlier.js';
import { STATE_WORDS, button, clock, copyButton, h, newId, plural, progressBar, speak, stateMark, timeLeft, timeOfDay, toFocus, tryNow, twist } from './elements.js';
import { detachItem, moreMenu } from './menu.js';
import { noticeAsk, noticeAskOf, noticeOfGroup, tellEnd } from './notices.js';
import { OpenRun } from './openrun.js';
import { pressIn, settle } from './press.js';
import { visibleName } from './text.js';
import { errorLine } from './words.js';

const MOST_REASONS = 6;
const HINT = 'Arrow keys or the pointer pick a run; Enter or a click opens it.';

/** The state that a group as a whole is in. */
function faceOfGroup(feed) {
  if (feed.connection === 'reconnecting' && !feed.ended) return 'reconnecting';
  const states = new Set(feed.jobs.filter(({ id }) => !feed.missing.has(id)).map(({ state }) => state));
  const order = feed.ended ? ['failed', 'canceled', 'succeeded'] : ['running', 'retrying', 'pending'];
  return order.find((state) => states.has(state)) ?? 'succeeded';
}

const ended = ({ state }) => state === 'succeeded' || state === 'failed' || state === 'canceled';
const tookOf = (job) => (job.started_at ? (Date.parse(job.finished_at ?? new Date()) - Date.parse(job.started_at)) / 1000 : null);

/** How long the runs have taken together, and when they will have ended, by how many have so far; or did end. */
function timesOfGroup(feed) {
  const starts = feed.jobs.filter((job) => job.started_at).map((job) => Date.parse(job.started_at));
  if (!starts.length) return ['', ''];
  const begun = starts.reduce((a, b) => Math.min(a, b));
  const ends = feed.jobs.filter((job) => job.started_at && job.finished_at).map((job) => Date.parse(job.finished_at));
  const last = ends.reduce((a, b) => Math.max(a, b), begun);
  if (feed.ended) return [clock((last - begun) / 1000), ends.length ? `at ${timeOfDay(last, false)}` : ''];
  const took = (Date.now() - begun) / 1000;
  // Since the last end, for between two ends nothing is known to have become less.
  const left = ends.length > 1 ? ((last - begun) / 1000 / ends.length) * (feed.jobs.length - ends.length) - (Date.now() - last) / 1000 : 0;
  return [clock(took), left > 0 && feed.connection === 'live' ? timeLeft(left) : ''];
}

const NOTICES = {
  reconnecting:
    'No connection to the server. The runs go on; what becomes of them will be here when it is back.',
  unknown: 'This server does not know these runs. They are shown as the notebook saved them.',
};

function missingOf({ missing, jobs }) {
  if (!missing.size) return '';
  const which = `${missing.size.toLocaleString('en')} of these ${plural(jobs.length, 'run')}`;
  return missing.size === 1
    ? `${which} is unknown to the server, and shown as the notebook saved it.`
    : `${which} are unknown to the server, and shown as the notebook saved them.`;
}

const copyIds = (feed) => copyButton(() => feed.jobs.map(({ id }) => id).join('\n'), 'Copy the ids', 'copy');

function noticeTextOf(feed) {
  const { connection, problem, refusal } = feed;
  if (connection === 'unknown' && refusal) return [problem, refusal, 'What was here until then is shown.'].filter(Boolean).join(' ');
  const why = connection === 'reconnecting' ? refusal : null;
  return [problem, why, NOTICES[connection], missingOf(feed)].filter(Boolean).join(' ');
}

export function renderGroup(el, feed, { renderRun }) {
  const bodyId = newId('group');
  const squareId = newId('square');
  const head = h('div');
  const squares = h('div', {
    class: 'zb-squares',
    role: 'listbox',
    tabindex: 0,
    'aria-label': plural(feed.jobs.length, 'run'),
    onkeydown: moveTo,
    // A move, not an entry: one that rests picks nothing when the page moves below it, which the keyboard makes it do.
    onpointermove: ({ target }) => target.dataset?.place && pick(Number(target.dataset.place)),
    onclick: ({ target }) => target.dataset?.place && toggle(Number(target.dataset.place)),
  });
  const counts = h('ul', { class: 'zb-counts' });
  const said = h('p', { class: 'zb-small zb-mute zb-picked' }, HINT);
  const reasons = h('div', { class: 'zb-reasons' });
  const notice = h('div', { class: 'zb-notice', role: 'note', hidden: true });
  const sameCell = h('div');
  const ask = h('div');
  const run = h('div', { class: 'zb-run' });
  const body = h(
    'div',
    { id: bodyId, role: 'group', 'aria-label': `Runs of ${visibleName(feed.name)}` },
    notice,
    sameCell,
    ask,
    h(
      'div',
      { class: 'zb-sec zb-group' },
      h('div', {}, h('div', { class: 'zb-h' }, 'Runs ', h('span', { class: 'zb-mute' }, 'one square each')), squares, counts, said),
      reasons,
    ),
    run,
  );
  const { item, offer } = detachItem(feed, 'Let the kernel go on that waits for these runs; they go on too');
  const more = moreMenu(visibleName(feed.name), [copyIds(feed), item], offer);
  const status = h('span', { class: 'zb-vh', role: 'status' });
  const elapsed = h('span');
  const beside = h('span', { class: 'zb-mute' });
  let open = true;
  let at = -1;
  let frame = 0;
  let headKey = null;
  let sameCellKey = null;
  let face = null;
  let whys = []; // why runs failed, in the order of their first, so that no button moves away from the pointer

  el.classList.add('zb', 'zb-card');
  el.replaceChildren(head, more.list, body, status);
  squares.append(
    ...feed.jobs.map((_, place) =>
      h('span', { class: 'zb-sq', id: `${squareId}-${place}`, role: 'option', 'aria-selected': 'false', 'data-place': place }),
    ),
  );

  const labelOf = (place) => {
    const job = feed.jobs[place];
    const took = tookOf(job);
    const why = job.state === 'failed' ? errorLine(job) : visibleName(job.progress?.note ?? '');
    return [
      `Run ${place + 1}`,
      feed.labels[place] && visibleName(feed.labels[place]),
      STATE_WORDS[job.state].toLowerCase(),
      took == null ? null : clock(took),
      why,
    ]
      .filter(Boolean)
      .join(', ');
  };

  function pick(place) {
    if (place === at) return;
    squares.children[at]?.classList.remove('zb-on');
    squares.children[at]?.setAttribute('aria-selected', 'false');
    at = place;
    const square = squares.children[place];
    square.classList.add('zb-on');
    square.setAttribute('aria-selected', 'true');
    squares.setAttribute('aria-activedescendant', square.id);
    said.textContent = labelOf(place);
  }

  function moveTo(event) {
    const columns = Math.max(1, Math.round((squares.clientWidth + 3) / 17));
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (step) {
      event.preventDefault();
      pick(Math.min(feed.jobs.length - 1, Math.max(0, at + step)));
    } else if (event.key === 'Enter' && at >= 0) toggle(at);
  }

  function toggle(place) {
    pick(place);
    openRun.toggle(place);
  }

  function mainAct() {
    if (feed.connection === 'reconnecting') return tryNow(feed);
    if (feed.connection !== 'live') return null;
    const disabled = feed.acting != null;
    if (!feed.ended && !feed.active.length) return button('Canceling\u2026', { disabled: true });
    if (!feed.ended) return button('Cancel all', { disabled, onclick: () => feed.act('cancel', feed.active) });
    const count = feed.failed.length;
    if (!count) return null;
    return button(`Retry ${count.toLocaleString('en')}`, {
      class: 'zb-btn-main',
      title: againTitle(feed.failed[0]),
      disabled,
      onclick: () => feed.act('retry', feed.failed),
    });
  }

  function buildHead(now, done) {
    const active = head.contains(document.activeElement) ? document.activeElement : null;
    const held = active?.closest('[data-part]')?.dataset.part;
    const bar = feed.ended ? null : progressBar(`Progress of ${visibleName(feed.name)}`, now === 'reconnecting');
    if (bar) {
      const percent = Math.round((done / feed.jobs.length) * 100);
      bar.firstChild.style.setProperty('--p', done / feed.jobs.length);
      bar.setAttribute('aria-valuenow', percent);
    }
    const failed = feed.failed.length;
    const note = `${done.toLocaleString('en')} of ${feed.jobs.length.toLocaleString('en')} ended${failed ? `, ${failed.toLocaleString('en')} failed` : ''}`;
    head.replaceChildren(
      h(
        'div',
        { class: 'zb-head' },
        twist(open, `${visibleName(feed.name)}, ${STATE_WORDS[now]}: details`, bodyId, () => {
          open = !open;
          headKey = null;
          refresh();
        }),
        stateMark(now, STATE_WORDS[now]),
        h('span', { class: 'zb-title' }, h('span', { class: 'zb-name zb-cut' }, visibleName(feed.name)), h('span', { class: 'zb-note zb-cut' }, note)),
        h('span', { class: 'zb-prog', 'data-state': now }, bar, bar && h('span', { class: 'zb-pct' }, `${bar.getAttribute('aria-valuenow')}%`)),
        h('span', { class: 'zb-meta' }, h('span', { class: 'zb-time' }, elapsed, beside), h('span', { class: 'zb-where' })),
        h(
          'span',
          { class: 'zb-acts' },
          h('span', { class: 'zb-slot', 'data-part': 'act' }, mainAct()),
          h('span', { class: 'zb-slot', 'data-part': 'more' }, more.opener()),
        ),
      ),
    );
    settle(head, [head.querySelector('[data-part="act"]').textContent]);
    if (!active) return;
    const target = held && head.querySelector(`[data-part="${held}"] button:not([disabled])`);
    (target || head.querySelector('.zb-twist')).focus({ preventScroll: true });
  }

  function buildReasons() {
    const found = new Map();
    for (const job of feed.failed) {
      const why = errorLine(job);
      found.set(why, (found.get(why) ?? 0) + 1);
    }
    whys = [...new Set([...whys.filter((why) => found.has(why)), ...found.keys()])];
    const most = new Set([...whys].sort((a, b) => found.get(b) - found.get(a)).slice(0, MOST_REASONS));
    const shown = whys.filter((why) => most.has(why)).map((why) => [why, found.get(why)]);
    const rows = shown.map(([why, count]) =>
      h(
        'li',
        {},
        h('b', {}, count.toLocaleString('en')),
        h('span', { class: 'zb-mono zb-cut', title: why }, why),
        feed.connection === 'live' &&
          button(`Retry ${count.toLocaleString('en')}`, {
            title: againTitle(feed.failed[0]),
            disabled: feed.acting != null,
            onclick: () => feed.act('retry', feed.failed.filter((job) => errorLine(job) === why)),
          }),
      ),
    );
    settle(reasons, shown.map(([why]) => why));
    const more = whys.length - rows.length;
    const held = reasons.contains(document.activeElement) && document.activeElement.closest('li')?.children[1].textContent;
    reasons.replaceChildren(
      ...(rows.length
        ? [
            h('div', { class: 'zb-h' }, 'Failed, by reason'),
            h('ul', { class: 'zb-why-list' }, rows),
            more > 0 ? h('p', { class: 'zb-small zb-mute' }, `and ${plural(more, 'other reason')}`) : '',
          ]
        : []),
    );
    if (!held) return;
    const same = rows.find(({ children: [, why] }) => why.textContent === held);
    (same?.querySelector('button:not([disabled])') ?? toFocus(head)).focus({ preventScroll: true });
  }

  function refreshSameCell() {
    const said = sameCellOf(feed);
    const shown = said && { ...said, disabled: feed.acting != null };
    const key = JSON.stringify(shown);
    if (key === sameCellKey) return;
    sameCellKey = key;
    const held = sameCell.contains(document.activeElement);
    sameCell.replaceChildren(...(shown ? [sameCellNotice(shown, feed)] : []));
    if (held) (toFocus(sameCell) ?? toFocus(head)).focus({ preventScroll: true });
  }

  function refresh() {
    frame = 0;
    if (press.on) return;
    const now = faceOfGroup(feed);
    const done = feed.jobs.filter(ended).length;
    const failed = feed.failed.map(({ id }) => id); // another one may fail for another reason
    const key = JSON.stringify([now, feed.counts, failed, feed.connection, feed.acting, feed.missing.size, feed.active.length > 0, feed.problem, feed.refusal]);
    if (key !== headKey) {
      headKey = key;
      buildHead(now, done);
      buildReasons();
      counts.replaceChildren(
        ...feed.counts.map(([state, count]) =>
          h('li', {}, h('span', { class: 'zb-sq', 'data-state': state, vars: { '--p': 0.5 } }), `${count.toLocaleString('en')} ${state}`),
        ),
      );
      notice.textContent = noticeTextOf(feed);
      notice.hidden = !notice.textContent;
      if (face != null && face !== now) status.textContent = `${visibleName(feed.name)}: ${STATE_WORDS[now]}`;
      face = now;
      el.dataset.face = now;
    }
    refreshSameCell();
    openRun.refresh();
    patchTimes();
    speak(status, [feed.problem, sameCellAnswerOf(feed)].filter(Boolean).join(' '));
    feed.jobs.forEach((job, place) => {
      const square = squares.children[place];
      if (square.dataset.state !== job.state || square.dataset.job !== job.id) {
        square.dataset.state = job.state;
        square.dataset.job = job.id;
        square.setAttribute('aria-label', labelOf(place));
      }
      if (job.state === 'running') square.style.setProperty('--p', job.progress?.fraction ?? 0.15);
    });
    if (at >= 0) said.textContent = labelOf(at);
    const question = noticeAskOf(noticeOfGroup(feed));
    if (!question) ask.replaceChildren();
    else if (!ask.firstChild) ask.replaceChildren(noticeAsk(question, schedule));
    body.hidden = !open;
  }
  const schedule = () => {
    frame ||= requestAnimationFrame(refresh);
  };
  const openRun = new OpenRun(run, feed, renderRun, schedule);
  const press = pressIn(el, schedule);
  const off = feed.on(schedule);
  const offEnd = tellEnd(el, feed, noticeOfGroup);
  function patchTimes() {
    const texts = timesOfGroup(feed);
    [elapsed, beside].forEach((part, i) => {
      if (part.textContent !== texts[i]) part.textContent = part.title = texts[i];
    });
  }
  const clockwork = setInterval(() => {
    if (!feed.ended) patchTimes();
    if (at >= 0 && !ended(feed.jobs[at])) said.textContent = labelOf(at);
  }, 1000);
  refresh();

  return () => {
    off();
    offEnd();
    clearInterval(clockwork);
    press.dispose();
    cancelAnimationFrame(frame);
    frame = -1;
    openRun.shut();
    el.replaceChildren();
  };
}
