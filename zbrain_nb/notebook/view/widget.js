// The views as ipywidgets. `widget.py` joins this file and those it imports into the one module of an anywidget.
import { showDashboard, showGroup, showJob } from './homes.js';
import { jupyterRenderer } from './jupyter.js';
import { modelChannel } from './kernel.js';
import { serverFor } from './ways.js';

const SHOW = { job: showJob, group: showGroup, dashboard: showDashboard };

export default {
  async render({ model, el }) {
    const saved = model.get('saved');
    const kind = model.get('kind');
    const server = serverFor(modelChannel(model), saved);
    const { rendermime } = (await model.widget_manager) ?? {};
    // A widget is shown only in a trusted notebook, and by the kernel that ran its cell.
    const renderOutput = rendermime && jupyterRenderer(rendermime, true);
    const { feed, shut } = SHOW[kind](el, server, saved, { renderOutput });
    // A page that opens later shows the job that repeats this one.
    const keep = () => {
      if (kind !== 'job' || feed.job.id === model.get('saved').id) return;
      model.set('saved', feed.saved);
      model.save_changes();
    };
    const off = feed.on(keep);
    return () => {
      off();
      shut();
      server.stop();
    };
  },
};
