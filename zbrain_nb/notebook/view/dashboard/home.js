// The dashboard in a notebook: a card that reads the server where it can be reached, and else shows what was saved.
import { h } from '../elements.js';
import { renderDashboard } from './dashboard.js';
import { JobsFeed } from './jobsfeed.js';

/** Show it in `node`; `api` is null where there is no server. Returns the feed and what ends it. */
export function showDashboard(node, api, saved) {
  const card = h('div', { class: 'zb-card' });
  node.replaceChildren(card);
  const feed = new JobsFeed(api, saved).start();
  const jobUrl = api && ((id) => `${api.replace(/api\/$/, '')}jobs/${encodeURIComponent(id)}`);
  const dispose = renderDashboard(card, feed, { jobUrl, target: '_blank' });
  return {
    feed,
    shut() {
      dispose();
      feed.stop();
    },
  };
}
