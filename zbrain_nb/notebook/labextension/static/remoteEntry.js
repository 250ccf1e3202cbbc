// The container that JupyterLab's loader expects of a prebuilt extension, written by hand because there is
// nothing to build: `init` gets the shared modules, `get` answers with the plugin that shows jobs in outputs.
(() => {
  const MIME_TYPE = 'application/vnd.zbrain.job+json';
  const GROUP_TYPE = 'application/vnd.zbrain.group+json';
  const RANK = -20; // before the widget manager (-10), so that a dead widget never hides the job
  const home = new URL('view/', document.currentScript.src);
  let shared = {};

  async function sharedModule(name) {
    const versions = Object.values(shared[name]);
    const factory = await (versions.find(({ loaded }) => loaded) ?? versions[0]).get();
    return factory();
  }

  async function makePlugin() {
    const [{ Widget }, { IRenderMimeRegistry }, view] = await Promise.all([
      sharedModule('@lumino/widgets'),
      sharedModule('@jupyterlab/rendermime'),
      import(new URL('index.js', home)),
    ]);

    class JobWidget extends Widget {
      constructor(rendermime) {
        super();
        this.addClass('zb-home');
        this.rendermime = rendermime;
        this.shut = null;
        this.shown = null;
        this.feed = null;
        this.past = new Set(); // the jobs that the shown one repeats
      }

      async renderModel(output) {
        const { trusted } = output;
        const saved = output.data[MIME_TYPE];
        const key = `${saved.id} ${trusted}`;
        this.output = output;
        this.model = { saved, trusted };
        if (this.shown === key) return;
        // The kernel saves how a job ended, maybe when the view has gone on to the one that repeats it.
        if (this.past.has(saved.id)) return this.keep(this.feed);
        this.shown = key;
        if (this.isAttached) this.open();
      }

      onAfterAttach() {
        if (this.model && !this.shut) this.open();
      }

      open() {
        this.shut?.();
        const { saved, trusted } = this.model;
        const server = view.serverOf(this, saved);
        const renderOutput = view.jupyterRenderer(this.rendermime, trusted);
        const { feed, shut } = view.showJob(this.node, server, saved, { renderOutput });
        this.feed = feed;
        const off = feed.on(() => this.keep(feed));
        this.shut = () => {
          off();
          shut();
          server.stop();
        };
      }

      /**
       * Let the notebook hold what the view shows: after a retry the new job, and at a job's end what it came to,
       * which the kernel cannot save if it was restarted meanwhile.
       */
      keep(feed) {
        const { id, state } = feed.job;
        const { saved, trusted } = this.model;
        const done = feed.ended && feed.loaded && feed.connection === 'live';
        if (id !== saved.id) this.past.add(saved.id);
        if (id === saved.id && (!done || (saved.state === state && saved.job?.finished_at))) return;
        const bundle = done ? view.bundleOf(feed) : { [MIME_TYPE]: feed.saved, 'text/plain': '<zbrain job>' };
        this.shown = `${id} ${trusted}`;
        this.output.setData({ data: bundle });
      }

      dispose() {
        if (this.isDisposed) return;
        this.shut?.();
        super.dispose();
      }
    }

    class GroupWidget extends Widget {
      constructor(rendermime) {
        super();
        this.addClass('zb-home');
        this.rendermime = rendermime;
        this.shut = null;
        this.key = null;
      }

      async renderModel(output) {
        const saved = output.data[GROUP_TYPE];
        this.output = output;
        this.model = { saved, trusted: output.trusted };
        const key = this.keyOf(saved.runs);
        if (this.key === key) return; // only states have changed: the feed knows better
        this.key = key;
        if (this.isAttached) this.open();
      }

      onAfterAttach() {
        if (this.model && !this.shut) this.open();
      }

      open() {
        this.shut?.();
        const { saved, trusted } = this.model;
        const server = view.serverOf(this, saved);
        const renderOutput = view.jupyterRenderer(this.rendermime, trusted);
        const { feed, shut } = view.showGroup(this.node, server, saved, { renderOutput });
        const off = feed.on(() => this.keep(feed));
        this.shut = () => {
          off();
          shut();
          server.stop();
        };
      }

      keyOf(runs) {
        return `${runs.map(({ id }) => id).join()} ${this.model.trusted}`;
      }

      /** Let the notebook hold the runs that the view shows, and at the end of all what they came to. */
      keep(feed) {
        if (!view.isNews(feed, this.model.saved)) return;
        const bundle = view.groupBundleOf(feed);
        this.model = { saved: bundle[GROUP_TYPE], trusted: this.model.trusted };
        this.key = this.keyOf(feed.jobs);
        this.output.setData({ data: bundle });
      }

      dispose() {
        if (this.isDisposed) return;
        this.shut?.();
        super.dispose();
      }
    }

    const plugin = {
      id: 'zbrain_nb:view',
      description: 'Shows zbrain jobs in outputs, live and without a kernel.',
      autoStart: true,
      requires: [IRenderMimeRegistry],
      activate: (app, rendermime) => {
        for (const name of ['zbrain.css', 'dashboard/dashboard.css']) {
          const style = document.createElement('link');
          style.rel = 'stylesheet';
          style.href = new URL(name, home).href;
          document.head.append(style);
        }
        // Jupyter's one-key commands must not take keys from the view's controls; its Ctrl chords may. What has the
        // focus has to say so itself: a command for any `:focus`, as x, which cuts the cell, matches it first.
        window.addEventListener(
          'keydown',
          (event) => {
            const chord = event.ctrlKey || event.metaKey || event.altKey;
            if (event.target.closest?.('.zb')) event.target.toggleAttribute('data-lm-suppress-shortcuts', !chord);
          },
          true,
        );
        rendermime.addFactory(
          {
            safe: true,
            mimeTypes: [MIME_TYPE],
            createRenderer: ({ resolver }) => new JobWidget(rendermime.clone({ resolver })),
          },
          RANK,
        );
        rendermime.addFactory(
          {
            safe: true,
            mimeTypes: [GROUP_TYPE],
            createRenderer: ({ resolver }) => new GroupWidget(rendermime.clone({ resolver })),
          },
          RANK,
        );
        rendermime.addFactory({ safe: true, mimeTypes: [view.DASHBOARD_TYPE], createRenderer: view.dashboardRenderer(Widget) }, RANK);
      },
    };
    const tile = shared['@jupyterlab/launcher'] && view.launcherPlugin(Widget, (await sharedModule('@jupyterlab/launcher')).ILauncher);
    return tile ? [plugin, tile] : plugin;
  }

  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB['zbrain_nb'] = {
    init: (scope) => {
      shared = scope;
    },
    get: async () => {
      const plugin = await makePlugin();
      return () => ({ __esModule: true, default: plugin });
    },
  };
})();
