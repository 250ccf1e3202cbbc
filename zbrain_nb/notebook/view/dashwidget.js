// The ipywidget's home of the dashboard, for pages without the lab extension. Where the server cannot be reached it
// shows the rows that the kernel gave it, and says so.
import { apiOfPage, ownHeaders } from './ask.js';
import { showDashboard } from './dashboard/home.js';

const PROBE_MS = 3000;

async function reached(api) {
  if (!api) return null;
  try {
    const answer = await fetch(`${api}workers`, {
      credentials: 'same-origin',
      headers: ownHeaders(),
      signal: AbortSignal.timeout(PROBE_MS),
    });
    return answer.ok ? api : null;
  } catch {
    return null;
  }
}

export default {
  async render({ model, el }) {
    const api = await reached(apiOfPage());
    const { feed, shut } = showDashboard(el, api, model.get('saved'));
    const refill = () => feed.refill(model.get('saved'));
    model.on('change:saved', refill);
    return () => {
      model.off('change:saved', refill);
      shut();
    };
  },
};
