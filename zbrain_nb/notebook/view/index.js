// What the homes of the view take from it.
export { jupyterRenderer } from './jupyter.js';
export { ServerFeed, apiOfPage } from './server.js';
export { render } from './view.js';
