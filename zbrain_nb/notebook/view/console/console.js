// The console's page: the bar on top, and below it what the address names, the dashboard or one job.
import { h } from '../elements.js';
import { renderDashboard } from '../dashboard/dashboard.js';
import { JobsFeed } from '../dashboard/jobsfeed.js';
import { jobPage } from './jobpage.js';

// This module lies at {root}static/console/console.js, wherever Jupyter's base URL puts the root.
const root = new URL('../../', import.meta.url);
const api = new URL('api/', root).href;
const home = root.pathname.replace(/\/$/, '');
const jobUrl = (id) => `${home}/jobs/${encodeURIComponent(id)}`;
const WORDS = { opening: 'Connecting', live: 'Live', reconnecting: 'Reconnecting', unknown: 'Unknown' };
const FILTERS = ['state', 'owner', 'q'];

followTheme();

const word = h('span');
const live = h('span', { class: 'zb-live', role: 'status' }, h('i'), word);
const orgs = h('select', { class: 'zb-input', 'aria-label': 'Organisation', hidden: true });
const main = h('main');
const id = /\/jobs\/([^/]+)\/?$/.exec(location.pathname)?.[1];
document.body.append(
  h(
    'div',
    { class: 'zb zb-shell' },
    h(
      'header',
      { class: 'zb-top' },
      h('b', {}, 'zbrain'),
      h('nav', { 'aria-label': 'Console' }, h('a', { href: home, 'aria-current': id ? null : 'page' }, 'Jobs')),
      h('span', { class: 'zb-gap' }),
      orgs,
      live,
    ),
    main,
  ),
);

/** In a tab of JupyterLab its theme is the page's too; alone, the browser's. */
function followTheme() {
  if (parent === window) return;
  const { body } = parent.document; // nobody else may show this page in a frame
  const follow = () => {
    const { jpThemeLight: light } = body.dataset;
    if (light) document.documentElement.dataset.theme = light === 'true' ? 'light' : 'dark';
  };
  new MutationObserver(follow).observe(body, { attributeFilter: ['data-jp-theme-light'] });
  follow();
}

/** So that who comes back finds the table as it was left. */
function keepInAddress(filter) {
  const address = new URL(location.href);
  for (const name of FILTERS) {
    if (filter[name]) address.searchParams.set(name, filter[name]);
    else address.searchParams.delete(name);
  }
  history.replaceState(null, '', address);
}

function tell(feed) {
  live.dataset.connection = feed.connection;
  const text = WORDS[feed.connection];
  if (word.textContent !== text) word.textContent = text;
}

if (id) {
  const feed = jobPage(main, { api, id: decodeURIComponent(id), home, jobUrl, frameUrl: `${home}/frame` });
  feed.on(() => tell(feed));
  tell(feed);
} else {
  const feed = new JobsFeed(api).start();
  const page = h('div');
  main.append(page);
  const asked = new URLSearchParams(location.search);
  const filter = Object.fromEntries(FILTERS.map((name) => [name, asked.get(name) ?? '']));
  renderDashboard(page, feed, { jobUrl, keysOn: document, filter, onFilter: keepInAddress });
  orgs.addEventListener('change', () => feed.choose(orgs.value));
  let known = '';
  feed.on(() => {
    tell(feed);
    const all = feed.overview ? [...new Set([feed.org, feed.home ?? feed.org, ...feed.overview.orgs])] : [];
    if (!all.length || known === all.join('\n')) return;
    known = all.join('\n');
    orgs.replaceChildren(...all.map((org) => h('option', { value: org, selected: org === feed.org }, org)));
    orgs.hidden = all.length < 2;
  });
  document.title = 'zbrain jobs';
}
