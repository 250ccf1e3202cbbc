// Views with their feeds, as every home of them (output, widget) puts them into a page: each function fills `node` and
// returns the feed and `shut`, which ends both. `server` is where the feed asks.
import { renderDashboard } from './dashboard/dashboard.js';
import { JobsFeed } from './dashboard/jobsfeed.js';
import { h } from './elements.js';
import { nameOf } from './feed.js';
import { renderGroup } from './group.js';
import { GroupFeed } from './groupfeed.js';
import { ServerFeed } from './server.js';
import { render } from './view.js';

function show(node, feed, draw) {
  const card = h('div', { class: 'zb-card' });
  node.replaceChildren(card);
  const dispose = draw(card, feed.start());
  return {
    feed,
    shut() {
      dispose();
      feed.stop();
    },
  };
}

export const showJob = (node, server, saved, options) =>
  show(node, new ServerFeed(server, saved), (card, feed) => render(card, feed, options));

export function showGroup(node, server, saved, options) {
  const renderRun = (host, job) => showJob(host, server, { id: job.id, name: nameOf(job), state: job.state }, options);
  return show(node, new GroupFeed(server, saved), (card, feed) => renderGroup(card, feed, { renderRun }));
}

export const showDashboard = (node, server, saved) =>
  show(node, new JobsFeed(server, saved), (card, feed) =>
    renderDashboard(card, feed, {
      jobUrl: (id) => server.pageOf(id),
      homeUrl: () => server.homePage(),
      target: '_blank',
    }),
  );
