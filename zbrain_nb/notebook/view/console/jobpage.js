// The page of one job: `jobPage(main, {api, id, home, jobUrl, frameUrl}) -> feed`. Head, tabs with the whole log,
// outputs, files, attempts and code, and beside them what the job is. Parts are built anew only when they change.
import { ask } from '../ask.js';
import { STATE_WORDS, answers, button, h, newId, progressBar, speak, stateMark, takeFocus, toFocus, tryNow } from '../elements.js';
import { artifactsSection, keptSection, valueSection } from '../kept.js';
import { logPane } from '../log.js';
import { outputsPane } from '../outputs.js';
import { parentsPane, waitsForParents } from '../parents.js';
import { pressIn, settle } from '../press.js';
import { ServerFeed } from '../server.js';
import { visibleName } from '../text.js';
import { failureSection } from '../trace.js';
import { alertOf, attemptsOf, faceOf, failureOf, fractionOf, noteOf, noticeOf, timesOf, wordOf } from '../words.js';
import { aboutJob, courseOfJob } from './about.js';
import { attemptsSection, chainSection, patchAttempts } from './attempts.js';
import { codeSection } from './code.js';
import { sandboxed } from './sandbox.js';

const AGAIN_MS = 3000; // until what could not be read is asked for again
const LOOK_MS = 3000; // who waits for the job comes and goes without an event

/** Whether it says something else than `before`. What is the very same is not looked at: it may be megabytes. */
const isOther = (before, now) =>
  before?.length !== now.length ||
  now.some((each, i) => each !== before[i] && JSON.stringify(each) !== JSON.stringify(before[i]));

export function jobPage(main, { api, id, home, jobUrl, frameUrl }) {
  const feed = new ServerFeed(api, { id, name: '\u2026' }).start();
  const panelId = newId('panel');
  const renderOutput = sandboxed(frameUrl);
  let shownId = id;
  let lines = null; // the log that the panes below belong to
  let panes = {};
  let history = { attempts: [], chain: [] };
  let historyKey = null;
  let chosen = location.hash.slice(1) || null; // the tab that the reader asked for
  let current = null;
  let settled = false; // whether `current` was chosen when it was known how the job stands
  let frame = 0;
  let waiting = 0; // how many the job holds up

  const crumb = h('p', { class: 'zb-crumb' });
  const title = h('h1');
  const line = h('div', { class: 'zb-line' });
  const notice = h('div', { class: 'zb-notice', role: 'note', hidden: true });
  const parentsSlot = h('div');
  const tabs = h('div', { class: 'zb-tabs', role: 'tablist', 'aria-label': 'Job', onkeydown: moveTab });
  const liveBox = h('div');
  const madeBox = h('div');
  const panel = h('div', { class: 'zb-panel', role: 'tabpanel', id: panelId, tabindex: -1 }, liveBox, madeBox);
  const courseBox = h('div');
  const aboutBox = h('div');
  const aside = h('aside', { 'aria-label': 'About this job' }, courseBox, aboutBox);
  const status = h('span', { class: 'zb-vh', role: 'status' });
  main.append(
    h('header', { class: 'zb-jobhead' }, crumb, title, line, tabs),
    notice,
    parentsSlot,
    h('div', { class: 'zb-split' }, panel, aside),
    status,
  );
  main.classList.add('zb-jobpage');

  // Each tab: its name, whether there is something in it, what to count, how it is built and `from` what; a pane keeps its state.
  const TABS = [
    {
      key: 'error',
      name: 'Error',
      when: () => failureOf(feed),
      from: ({ error, reason, exit_code: code }) => [error, reason, code],
      make: () => failureSection(failureOf(feed)),
    },
    { key: 'log', name: 'Log', when: () => true, count: () => feed.log.end, pane: () => [panes.log] },
    {
      key: 'outputs',
      name: 'Outputs',
      when: () => feed.displays.length || feed.values.length || feed.job.output != null || feed.job.variables?.length,
      count: () => feed.displays.length + (feed.values.length || Number(feed.job.output != null)),
      pane: () => [panes.outputs, panes.value],
      from: ({ output, variables }) => [output, variables, feed.values.length > 0],
      make: () => [
        !feed.values.length && feed.job.output != null && valueSection(feed.job.output),
        feed.job.variables?.length > 0 &&
          keptSection({ title: 'Variables kept with the job', variables: feed.job.variables, reference: null }),
      ],
    },
    {
      key: 'artifacts',
      name: 'Artifacts',
      when: () => feed.job.artifacts?.length,
      count: () => feed.job.artifacts.length,
      from: ({ artifacts }) => [artifacts, urlsOf(artifacts)],
      make: () => artifactsSection({ artifacts: feed.job.artifacts, urls: urlsOf(feed.job.artifacts) }),
    },
    {
      key: 'attempts',
      name: 'Attempts',
      when: () => history.attempts.length || history.chain.length > 1,
      count: () => history.attempts.length,
      from: ({ state, attempt }) => [history, state, attempt],
      make: () => [attemptsSection(feed, history.attempts), chainSection(feed, history.chain, jobUrl)],
      patch: () => patchAttempts(madeBox, feed, history.attempts),
    },
    {
      key: 'code',
      name: 'Code',
      when: () => feed.loaded,
      from: ({ spec }) => [spec],
      make: () => codeSection(feed.job.spec),
    },
  ];
  let liveKey = null;
  let tabsKey = null;

  const name = () => visibleName(feed.job.name);
  const urlsOf = (artifacts) => artifacts.map((each) => feed.artifactUrl(each.name));
  const seen = new Map();
  /** Build what is in `box` anew if it is made from something else than before: else what was opened there stays open. */
  function renew(box, from, make) {
    if (isOther(seen.get(box), from)) {
      const held = box.contains(document.activeElement);
      box.replaceChildren(...make());
      if (held) takeFocus(box);
    }
    seen.set(box, from);
  }
  const setText = (node, text) => {
    if (node.textContent !== text) node.textContent = text;
  };

  // ---- head
  let headKey = null;
  function buildHead() {
    const face = faceOf(feed);
    const held = title.contains(document.activeElement);
    crumb.replaceChildren(h('a', { href: home }, 'Jobs'), ' / ', h('bdi', {}, name()));
    title.replaceChildren(h('bdi', {}, name()), stateMark(face, wordOf(feed)), h('span', { class: 'zb-acts' }, acts()));
    settle(title, [title.lastChild.textContent]);
    if (held) toFocus(title)?.focus({ preventScroll: true });
    document.title = `${STATE_WORDS[face]}: ${name()}`;
    if (status.dataset.face && status.dataset.face !== face) status.textContent = `${name()}: ${STATE_WORDS[face]}`;
    status.dataset.face = face;
  }
  function acts() {
    if (feed.connection === 'reconnecting') return tryNow(feed);
    if (!feed.canAct) return null;
    if (feed.canceling) return button('Canceling\u2026', { disabled: true });
    if (!feed.ended) return [waiting > 0 && detachButton(), button('Cancel', { onclick: () => feed.act('cancel') })];
    const failed = feed.job.state === 'failed';
    if (feed.asks) return answers(feed, failed ? 'retry' : 'run_again');
    return button(failed ? 'Retry' : 'Run again', {
      class: failed ? 'zb-btn-main' : '',
      disabled: feed.acting != null,
      onclick: () => feed.act(failed ? 'retry' : 'run_again'),
    });
  }
  const detachButton = () =>
    button('Detach', {
      title: 'Let the kernel go on that waits for this job; the job goes on too',
      onclick: () => void feed.act('detach').then(lookForWaiting),
    });
  /** See whether somebody waits for the job: the server tells it who asks. */
  async function lookForWaiting() {
    if (feed.ended || !feed.canAct || document.hidden) return;
    try {
      waiting = await feed.countWaiting();
      schedule();
    } catch {
      // It is asked again soon; meanwhile the connection itself shows that it is lost.
    }
  }
  let bar = null;
  const percent = h('b');
  const note = h('span');
  const elapsed = h('b');
  const beside = h('span');
  const attempt = h('b');
  const place = h('b');
  const owner = h('b');
  const parts = [
    h('span', {}, percent, ' ', note),
    h('span', {}, elapsed, ' ', beside),
    h('span', {}, 'attempt ', attempt),
    h('span', {}, 'on ', place),
    h('span', {}, 'owner ', owner),
  ];
  line.append(...parts);
  function patchLine() {
    const { job } = feed;
    const done = fractionOf(feed);
    line.dataset.state = faceOf(feed);
    if ((done == null) !== (bar == null)) {
      bar?.remove();
      bar = done == null ? null : progressBar(`Progress of ${name()}`, faceOf(feed) === 'reconnecting');
      if (bar) line.prepend(bar);
    }
    if (bar) {
      const value = Math.round(done * 100);
      bar.firstChild.style.setProperty('--p', done);
      bar.setAttribute('aria-valuenow', value);
    }
    setText(percent, done == null ? '' : `${Math.round(done * 100)}%`);
    setText(note, noteOf(feed, true));
    const [ran, rest] = timesOf(feed);
    setText(elapsed, ran);
    setText(beside, rest);
    setText(attempt, `${job.attempt} of ${attemptsOf(job)}`);
    setText(place, job.worker_id ?? '');
    setText(owner, job.owner ?? '');
    const has = [percent.textContent || note.textContent, ran, job.attempt, job.worker_id, job.owner];
    parts.forEach((part, i) => (part.hidden = !has[i]));
  }

  // ---- tabs
  function refreshTabs() {
    const there = TABS.filter(({ when }) => when());
    const key = JSON.stringify(there.map(({ key: each }) => each));
    const kept = settled && !(current?.key === 'log' && !feed.log.end) && there.find((tab) => tab === current);
    const asked = there.find((tab) => tab.key === chosen) ?? kept;
    const tab = asked || firstOf(there);
    settled = feed.loaded;
    if (key !== tabsKey || tab !== current) {
      tabsKey = key;
      const held = tabs.contains(document.activeElement);
      tabs.replaceChildren(
        ...there.map((each) =>
          h(
            'button',
            {
              type: 'button',
              role: 'tab',
              id: `${panelId}-${each.key}`,
              'data-tab': each.key,
              'aria-controls': panelId,
              'aria-selected': each === tab,
              tabindex: each === tab ? 0 : -1,
              onclick: () => choose(each.key),
            },
            each.name,
            each.count && h('small'),
          ),
        ),
      );
      if (held) tabs.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
    }
    there.forEach(({ count }, i) => count && setText(tabs.children[i].lastChild, count().toLocaleString('en')));
    if (tab !== current) {
      current = tab;
      panel.setAttribute('aria-labelledby', `${panelId}-${tab.key}`);
    }
  }
  /** The tab that a reader who asked for none sees: the log, unless an error or, beside an empty log, outputs say more. */
  function firstOf(there) {
    const log = there.find(({ key }) => key === 'log');
    if (!feed.loaded) return log;
    return (!feed.log.end && there.find(({ key }) => key === 'outputs' || key === 'error')) || there[0];
  }
  function choose(key) {
    chosen = key;
    window.history.replaceState(null, '', `#${key}`);
    refresh();
  }
  function moveTab(event) {
    const all = [...tabs.children];
    const at = all.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to == null || at < 0) return;
    event.preventDefault();
    choose(all[(to + all.length) % all.length].dataset.tab);
  }

  // ---- panel
  function makePanes() {
    Object.values(panes).forEach((pane) => pane.dispose());
    lines = feed.log;
    panes = {
      log: logPane(feed, { page: true }),
      outputs: outputsPane(`Outputs of ${name()}`, null, () => feed.displays, renderOutput),
      value: outputsPane(`Value of ${name()}`, 'Value', () => feed.values, renderOutput),
      parents: parentsPane(feed),
    };
    liveKey = null;
  }
  function refreshPanel() {
    if (lines !== feed.log) makePanes();
    const { key, pane, from, make, patch } = current;
    const live = (pane?.() ?? []).filter((each) => each !== panes.value || feed.values.length);
    // Apart from what is made anew: a frame that is put back into the page loads again.
    const shown = JSON.stringify([key, live.length]);
    if (shown !== liveKey) {
      liveKey = shown;
      liveBox.replaceChildren(...live.map(({ el }) => el));
    }
    renew(madeBox, [key, ...(from?.(feed.job) ?? [])], () => [make?.()].flat(2).filter(Boolean));
    patch?.();
    for (const each of live) each.sync();
  }

  function refreshParents() {
    const { parents } = panes;
    if (!waitsForParents(feed)) parentsSlot.replaceChildren();
    else if (parentsSlot.firstChild !== parents.el) parentsSlot.replaceChildren(parents.el);
    parents.sync();
  }

  async function readHistory() {
    const { job } = feed;
    const key = JSON.stringify([job.id, job.attempt, job.state]);
    if (!feed.loaded || key === historyKey || feed.connection !== 'live') return;
    historyKey = key;
    try {
      const [found] = await ask(`${api}jobs/${job.id}/attempts`);
      if (historyKey !== key) return;
      history = found;
      schedule();
    } catch {
      // Of a job that has ended nothing else may ever ask again.
      setTimeout(() => {
        if (historyKey === key) historyKey = null;
        schedule();
      }, AGAIN_MS);
    }
  }

  // ---- when
  function refresh() {
    frame = 0;
    if (press.on) return;
    const { job } = feed;
    if (job.id !== shownId) {
      // A Retry shows the new job, and the address is its own.
      shownId = job.id;
      chosen = null;
      current = null;
      history = { attempts: [], chain: [] };
      window.history.pushState(null, '', jobUrl(job.id));
    }
    const key = JSON.stringify([faceOf(feed), wordOf(feed), job.id, job.name, feed.connection, feed.canceling, feed.acting, feed.asks, waiting > 0]);
    if (key !== headKey) {
      headKey = key;
      buildHead();
    }
    patchLine();
    const said = noticeOf(feed);
    setText(notice, said);
    notice.hidden = !said;
    notice.dataset.state = faceOf(feed);
    speak(status, alertOf(feed));
    refreshTabs();
    refreshPanel();
    refreshParents();
    const { progress, event_seq: seq, ...rest } = job;
    renew(courseBox, [feed.loaded, ...Object.values(rest)], () => courseOfJob(feed));
    const is = [feed.loaded, job.id, job.owner, job.org_id, job.retry_of, job.spec];
    renew(aboutBox, is, () => aboutJob(feed, jobUrl));
    void readHistory();
  }
  const schedule = () => {
    frame ||= requestAnimationFrame(refresh);
  };
  const press = pressIn(main, schedule);
  feed.on(schedule);
  setInterval(() => {
    if (!feed.ended || feed.connection === 'reconnecting') schedule();
  }, 1000);
  setInterval(() => void lookForWaiting(), LOOK_MS);
  addEventListener('popstate', () => {
    if (location.pathname !== jobUrl(feed.job.id)) location.reload();
  });
  refresh();
  return feed;
}
