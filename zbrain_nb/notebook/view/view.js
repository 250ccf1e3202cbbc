// The view of one job: `render(el, feed, {open, renderOutput}) -> dispose`. It reads the feed and asks it to act;
// where the feed gets its data is no concern of it. Parts are built anew only when what they show has changed.
import { againTitle, sameCellNotice, sameCellOf } from './earlier.js';
import { STATE_WORDS, answers, button, copyButton, h, icon, newId, progressBar, speak, stateMark, toFocus, tryNow, twist } from './elements.js';
import { artifactsSection, keptSection, valueSection } from './kept.js';
import { logPane } from './log.js';
import { detachItem, moreMenu } from './menu.js';
import { noticeAsk, noticeAskOf, noticeOfJob, tellEnd } from './notices.js';
import { outputsPane, renderPlainly } from './outputs.js';
import { paramsOf, paramsSection } from './params.js';
import { parentsPane, waitsForParents } from './parents.js';
import { pressIn, settle } from './press.js';
import { fillBriefly, plainText, visibleName } from './text.js';
import { failureSection } from './trace.js';
import {
  alertOf,
  faceOf,
  failureOf,
  footOf,
  fractionOf,
  leftOutOf,
  nextTryOf,
  noteOf,
  noticeOf,
  placeOf,
  timesOf,
  triesOf,
  wordOf,
} from './words.js';

export function render(el, feed, { open = true, renderOutput = renderPlainly } = {}) {
  const bodyId = newId('body');
  const head = h('div');
  const menuBox = h('div'); // apart from the head, so that a list that is open outlives a rebuild
  const body = h('div', { id: bodyId, role: 'group' });
  const status = h('span', { class: 'zb-vh', role: 'status' }); // stays in place, or it would not be spoken
  let live = {};
  let headKey = null;
  let menuKey = null;
  let opener = null;
  let face = null;
  let frame = 0;
  let panes = {}; // of the current job: outputs and log, which keep their own state
  let lines = null;
  let paramsOpen = false;

  el.classList.add('zb', 'zb-card');
  el.replaceChildren(head, menuBox, body, status);

  const name = () => visibleName(feed.job.name);
  // Jupyter's renderers run in the page, with all that its login may do: they are for one's own jobs alone.
  const show = (output, host, budget) => (feed.isOwn ? renderOutput : renderPlainly)(output, host, budget);

  // ---- head
  function buildHead() {
    const { job } = feed;
    const now = faceOf(feed);
    const done = fractionOf(feed);
    live = {
      note: h('span', { class: `zb-note zb-cut${job.state === 'failed' ? ' zb-note-bad' : ''}` }),
      elapsed: h('span'),
      beside: h('span', { class: 'zb-mute' }),
      bar: done == null ? null : progressBar(`Progress of ${name()}`, now === 'reconnecting'),
      percent: h('span', { class: 'zb-pct' }),
    };
    buildMenu();
    const active = head.contains(document.activeElement) ? document.activeElement : null;
    const held = active?.closest('[data-part]')?.dataset.part;
    head.replaceChildren(
      h(
        'div',
        { class: 'zb-head' },
        twist(open, `${name()}, ${wordOf(feed)}: details`, bodyId, toggle),
        stateMark(now, wordOf(feed)),
        h(
          'span',
          { class: 'zb-title' },
          h('span', { class: 'zb-name zb-cut', title: name() }, h('bdi', {}, name())),
          live.note,
        ),
        live.bar && h('span', { class: 'zb-prog', 'data-state': now }, live.bar, live.percent),
        h(
          'span',
          { class: 'zb-meta' },
          h('span', { class: 'zb-time' }, live.elapsed, live.beside),
          h(
            'span',
            { class: 'zb-where zb-cut', title: plainText(feed.job.worker_id ?? '') || placeOf(feed) },
            placeOf(feed),
          ),
        ),
        h(
          'span',
          { class: 'zb-acts' },
          h('span', { class: 'zb-slot', 'data-part': 'act' }, mainAct()),
          h('span', { class: 'zb-slot', 'data-part': 'more' }, opener()),
        ),
      ),
    );
    settle(head, [head.querySelector('[data-part="act"]').textContent]);
    // A rebuild never drops the keyboard: the same part gets it back, or the twist if that part cannot take it.
    if (active) {
      const target = held && toFocus(head.querySelector(`[data-part="${held}"]`));
      (target || head.querySelector('.zb-twist')).focus({ preventScroll: true });
    }
  }
  function mainAct() {
    const { state } = feed.job;
    if (feed.connection === 'reconnecting') return tryNow(feed);
    if (!feed.canAct) return null;
    if (feed.canceling) return button('Canceling\u2026', { disabled: true });
    if (!feed.ended) return button('Cancel', { onclick: () => feed.act('cancel') });
    const disabled = feed.acting != null;
    const title = againTitle(feed.job);
    if (feed.asks) return answers(feed, state === 'failed' ? 'retry' : 'run_again');
    if (state === 'failed')
      return button('Retry', { class: 'zb-btn-main', title, disabled, onclick: () => feed.act('retry') });
    return button(faceOf(feed) === 'cached' ? 'Run anyway' : 'Run again', { title, disabled, onclick: () => feed.act('run_again') });
  }
  function buildMenu() {
    const key = JSON.stringify([feed.job.id, name(), feed.pageUrl]);
    if (key === menuKey) return;
    menuKey = key;
    const { item, offer } = detachItem(feed, 'Let the kernel go on that waits for this job; the job goes on too');
    const page = feed.pageUrl && { href: feed.pageUrl, target: '_blank', rel: 'noopener', class: 'zb-btn zb-btn-bare' };
    const items = [
      copyButton(`client.job("${feed.job.id}")`, 'Copy client.job("\u2026")', 'copy'),
      copyButton(feed.job.id, 'Copy the id', 'copy'),
      item,
      page && h('a', page, icon('open'), 'Open its own page'),
    ];
    const menu = moreMenu(name(), items, offer);
    ({ opener } = menu);
    menuBox.replaceChildren(menu.list);
  }
  function toggle() {
    open = !open;
    headKey = null;
    refresh();
  }

  /** What moves with the clock; nothing is rebuilt for it. */
  function patchHead() {
    const note = noteOf(feed, open);
    const [elapsed, beside] = timesOf(feed);
    const done = fractionOf(feed);
    setText(live.note, note);
    live.note.title = note;
    setText(live.elapsed, elapsed);
    setText(live.beside, beside);
    live.beside.title = beside;
    if (!live.bar) return;
    const percent = `${Math.round(done * 100)}%`;
    live.bar.firstChild.style.setProperty('--p', done);
    live.bar.setAttribute('aria-valuenow', Math.round(done * 100));
    live.bar.setAttribute('aria-valuetext', [percent, note].filter(Boolean).join(', '));
    setText(live.percent, percent);
  }
  const setText = (node, text) => {
    if (node.textContent !== text) node.textContent = text;
  };

  // ---- body: the same order in every state; a part that has nothing to say is not there
  const PARTS = [
    {
      data: () => {
        const text = noticeOf(feed);
        return text && { text, now: faceOf(feed) };
      },
      make: ({ text, now }) => h('div', { class: 'zb-notice', role: 'note', 'data-state': now }, h('span', {}, text)),
    },
    {
      data: () => {
        const said = sameCellOf(feed);
        return said && { ...said, disabled: feed.aside.has('cancel_earlier') };
      },
      make: (said) => sameCellNotice(said, feed),
    },
    { data: () => noticeAskOf(noticeOfJob(feed)), make: (ask) => noticeAsk(ask, schedule) },
    { pane: 'parents', when: () => waitsForParents(feed) },
    { data: triesOf, make: triesSection, patch: (slot) => setText(slot.querySelector('.zb-next'), nextTryOf(feed)) },
    { data: failureOf, make: failureSection },
    { data: leftOutOf, make: (text) => h('p', { class: 'zb-sec zb-small zb-mute' }, text) },
    { pane: 'outputs', when: () => feed.displays.length },
    { pane: 'value', when: () => feed.values.length },
    {
      data: () => (feed.job.state === 'succeeded' && !feed.values.length ? (feed.job.output ?? null) : null),
      make: valueSection,
    },
    { data: keptOf, make: keptSection },
    {
      data: artifactsOf,
      make: ({ reads, ...data }) => artifactsSection(data, reads ? (name, first) => feed.readArtifact(name, first) : null),
    },
    { pane: 'log', when: () => feed.log.end },
    {
      data: paramsOf,
      from: () => feed.job.spec, // it may be large, and is the same at every frame
      make: (rows) => paramsSection(rows, paramsOpen, (now) => (paramsOpen = now)),
    },
    { data: footOf, make: footSection },
  ].map((part) => ({ ...part, slot: h('div'), key: null }));
  body.append(...PARTS.map(({ slot }) => slot));

  function keptOf({ job }) {
    const variables = job.variables ?? [];
    const reference = job.state === 'succeeded' ? `job = client.job("${job.id}")` : null;
    const title = job.state === 'failed' ? 'Variables kept until the error' : 'Variables kept with the job';
    return feed.ended && (variables.length || reference) ? { title, variables, reference } : null;
  }
  function artifactsOf({ job }) {
    const artifacts = job.artifacts ?? [];
    if (!artifacts.length) return null;
    const urls = artifacts.map(({ name }) => feed.artifactUrl(name));
    return { artifacts, urls, reads: feed.canAct && urls.includes(null) };
  }
  const disposePanes = () => Object.values(panes).forEach((pane) => pane.dispose());
  function refreshBody() {
    if (lines !== feed.log) {
      disposePanes();
      lines = feed.log;
      panes = {
        outputs: outputsPane(`Outputs of ${name()}`, null, () => feed.displays, show),
        value: outputsPane(`Value of ${name()}`, 'Value', () => feed.values, show),
        log: logPane(feed),
        parents: parentsPane(feed),
      };
    }
    for (const part of PARTS) {
      if (part.pane) {
        const pane = panes[part.pane];
        if (!part.when()) part.slot.replaceChildren();
        else if (part.slot.firstChild !== pane.el) part.slot.replaceChildren(pane.el);
        pane.sync();
        continue;
      }
      const from = part.from?.();
      if (from && from === part.was) continue;
      part.was = from;
      const data = part.data(feed);
      const key = data ? JSON.stringify(data) : null;
      if (key !== part.key) {
        const held = part.slot.contains(document.activeElement);
        part.slot.replaceChildren(...(data ? [part.make(data)] : []));
        part.key = key;
        if (held) (toFocus(part.slot) ?? toFocus(head))?.focus({ preventScroll: true });
      }
      if (data) part.patch?.(part.slot);
    }
    body.setAttribute('aria-label', `Details of ${name()}`);
  }

  // ---- when
  function refresh() {
    frame = 0;
    if (press.on) return;
    const { job } = feed;
    const now = faceOf(feed);
    const key = JSON.stringify([
      now,
      wordOf(feed),
      job.id,
      job.name,
      placeOf(feed),
      feed.connection,
      feed.canceling,
      feed.asks,
      feed.acting,
      fractionOf(feed) == null,
      againTitle(feed.job),
    ]);
    if (key !== headKey) {
      headKey = key;
      buildHead();
      if (face != null && face !== now) status.textContent = `${name()}: ${STATE_WORDS[now]}`;
      face = now;
      el.dataset.face = now;
    }
    speak(status, alertOf(feed));
    patchHead();
    body.hidden = !open;
    if (open) refreshBody();
  }
  const schedule = () => {
    frame ||= requestAnimationFrame(refresh);
  };
  const press = pressIn(el, schedule);
  const off = feed.on(schedule);
  const offEnd = tellEnd(el, feed, noticeOfJob);
  const clockwork = setInterval(() => {
    if (!feed.ended || feed.connection === 'reconnecting') schedule();
  }, 1000);
  refresh();

  return () => {
    off();
    offEnd();
    press.dispose();
    clearInterval(clockwork);
    cancelAnimationFrame(frame);
    frame = -1;
    disposePanes();
    el.replaceChildren();
  };
}

const triesSection = (list) =>
  h(
    'div',
    { class: 'zb-sec' },
    h(
      'ol',
      { class: 'zb-tries', 'aria-label': 'Attempts' },
      list.map(({ state, name, note }) =>
        h(
          'li',
          { 'data-state': state },
          h('b', { class: 'zb-small' }, name),
          fillBriefly(h('span', { class: `zb-small zb-mute${state === 'retrying' ? ' zb-next' : ''}` }), note ?? ''),
        ),
      ),
    ),
  );
const footSection = (facts) =>
  h(
    'dl',
    { class: 'zb-foot' },
    facts.map(([key, value]) => h('div', {}, h('dt', {}, key), h('dd', { class: 'zb-cut', title: value }, value))),
  );
