// Outputs as Jupyter shows them: by its own renderers, so that a job's plot looks as if its cell had run here.
import { renderPlainly, textOf } from './outputs.js';

/**
 * @param {object} rendermime Jupyter's registry of renderers
 * @param {boolean} trusted whether scripts in outputs may run; else Jupyter's renderers sanitise
 */
export function jupyterRenderer(rendermime, trusted) {
  return (output, host, budget) => {
    const data = Object.fromEntries(
      Object.entries(output.data ?? {}).map(([type, value]) => [
        type,
        Array.isArray(value) && !type.endsWith('json') ? textOf(value) : value,
      ]),
    );
    const type = rendermime.preferredMimeType(data, trusted ? 'any' : 'ensure');
    if (!type) {
      renderPlainly({ data: { 'text/plain': data['text/plain'] ?? '' } }, host, budget);
      return () => {};
    }
    const widget = rendermime.createRenderer(type);
    widget.addClass('jp-OutputArea-output');
    // Some renderers (LaTeX, plots) draw only once Lumino tells them that they are in the page.
    if (host.isConnected) widget.constructor.attach(widget, host);
    else host.append(widget.node);
    widget.renderModel(rendermime.createModel({ data, metadata: output.metadata ?? {}, trusted })).catch((error) => {
      host.textContent = `This output could not be shown as ${type}: ${error.message}`;
    });
    return () => {
      // Jupyter may have taken the cell away already, and Lumino detaches only what is in a page.
      if (widget.isAttached && !widget.node.isConnected) document.body.append(widget.node);
      widget.dispose();
    };
  };
}
