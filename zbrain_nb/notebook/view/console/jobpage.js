// The page of one job.
import { h } from '../elements.js';
import { ServerFeed } from '../server.js';
import { render } from '../view.js';
import { sandboxed } from './sandbox.js';

export function jobPage(main, { api, id, frameUrl }) {
  const feed = new ServerFeed(api, { id, name: id }).start();
  const card = h('div');
  main.append(card);
  render(card, feed, { renderOutput: sandboxed(frameUrl) });
  return feed;
}
