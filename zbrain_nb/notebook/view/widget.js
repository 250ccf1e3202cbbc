// The view as an ipywidget. `widget.py` joins this file and those it imports into the one module of an anywidget.
import { apiOfPage, ownHeaders } from './ask.js';
import { h } from './elements.js';
import { jupyterRenderer } from './jupyter.js';
import { KernelFeed } from './kernel.js';
import { ServerFeed } from './server.js';
import { render } from './view.js';

const PROBE_MS = 3000;

async function reaches(api, jobId) {
  if (!api) return false;
  try {
    const answer = await fetch(`${api}jobs/${jobId}`, {
      credentials: 'same-origin',
      headers: ownHeaders(),
      signal: AbortSignal.timeout(PROBE_MS),
    });
    return answer.ok;
  } catch {
    return false;
  }
}

export default {
  async render({ model, el }) {
    const api = apiOfPage();
    const id = model.get('job_id');
    const direct = await reaches(api, id);
    const feed = direct
      ? new ServerFeed(api, { id, name: model.get('name'), ...model.get('snapshot') }).start()
      : new KernelFeed(model);
    const card = h('div');
    el.append(card);
    const { rendermime } = (await model.widget_manager) ?? {};
    // A widget is shown only in a trusted notebook, and by the kernel that ran its cell.
    const renderOutput = rendermime && jupyterRenderer(rendermime, true);
    const dispose = render(card, feed, { renderOutput });
    return () => {
      dispose();
      feed.stop();
    };
  },
};
