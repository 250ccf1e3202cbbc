// What JupyterLab gets beside the views of jobs: the dashboard in outputs, and a tile that opens the console.
import { apiOfPage } from './ask.js';
import { h } from './elements.js';
import { showDashboard } from './homes.js';
import { commChannel } from './kernel.js';
import { serverFor } from './ways.js';

export const DASHBOARD_TYPE = 'application/vnd.zbrain.dashboard+json';
const COMMAND = 'zbrain_nb:open-console';

/** Where what is shown in `widget` (Lumino's) is asked for: by the page, or through the kernel of its document. */
export function serverOf(widget, saved) {
  let holder = widget;
  while (holder && !holder.sessionContext) holder = holder.parent;
  return serverFor(holder && commChannel(holder.sessionContext), saved);
}

/** What makes renderers of dashboards, for Jupyter's registry; `Widget` is Lumino's. */
export function dashboardRenderer(Widget) {
  class DashboardWidget extends Widget {
    constructor() {
      super();
      this.addClass('zb-home');
      this.shut = null;
      this.saved = null;
    }
    async renderModel(output) {
      if (this.saved) return; // the feed knows better than what was saved again
      this.saved = output.data[DASHBOARD_TYPE];
      if (this.isAttached) this.onAfterAttach();
    }
    onAfterAttach() {
      if (!this.saved || this.shut) return;
      const server = serverOf(this, this.saved);
      const { shut } = showDashboard(this.node, server, this.saved);
      this.shut = () => {
        shut();
        server.stop();
      };
    }
    dispose() {
      if (this.isDisposed) return;
      this.shut?.();
      super.dispose();
    }
  }
  return () => new DashboardWidget();
}

/** The plugin that adds the tile; the console opens in the main area, once. */
export function launcherPlugin(Widget, ILauncher) {
  return {
    id: 'zbrain_nb:launcher',
    description: 'Opens the zbrain console.',
    autoStart: true,
    optional: [ILauncher],
    activate: (app, launcher) => {
      let open = null;
      app.commands.addCommand(COMMAND, {
        label: 'zbrain jobs',
        caption: 'All jobs, live',
        iconClass: 'zb-tile',
        execute: () => {
          if (!open || open.isDisposed) {
            open = new Widget({ node: h('div', { class: 'zb-console' }) });
            open.id = 'zbrain-console';
            Object.assign(open.title, { label: 'zbrain jobs', iconClass: 'zb-tile', closable: true });
            open.node.append(h('iframe', { src: apiOfPage().replace(/\/api\/$/, ''), title: 'zbrain jobs' }));
            app.shell.add(open, 'main');
          }
          app.shell.activateById(open.id);
        },
      });
      launcher?.add({ command: COMMAND, category: 'Other', rank: 1 });
    },
  };
}
