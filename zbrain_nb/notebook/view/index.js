// What the homes of the view take from it.
export { jupyterRenderer } from './jupyter.js';
export { apiOfPage } from './ask.js';
export { showGroup, showJob } from './homes.js';
export { DASHBOARD_TYPE, dashboardRenderer, launcherPlugin, serverOf } from './lab.js';
export { nameOf } from './feed.js';
export { GroupFeed } from './groupfeed.js';
export { groupBundleOf, isNews } from './groupsummary.js';
export { renderGroup } from './group.js';
export { ServerFeed } from './server.js';
export { bundleOf } from './summary.js';
export { render } from './view.js';
