// Outputs of jobs on the console: HTML only in a frame of no origin, which the host serves with a policy of its own
// (no network at all); everything else as text and images, as on pages without Jupyter.
import { h } from '../elements.js';
import { renderPlainly, textOf } from '../outputs.js';

const MAX_HEIGHT = 2000; // px
const SIZER =
  '<script>new ResizeObserver(() => parent.postMessage({zbrainHeight: document.documentElement.offsetHeight}, "*")).observe(document.documentElement)</script>';

/** @param {string} url the address of the empty page that shows what is posted to it */
export const sandboxed = (url) => (output, host, budget) => {
  const html = output.data?.['text/html'];
  if (html == null) return renderPlainly(output, host, budget);
  const { color, fontFamily, fontSize } = getComputedStyle(host);
  const looks = `<style>body{margin:0;color:${color};font:${fontSize} ${fontFamily}}table{border-collapse:collapse;font-size:12px}th,td{padding:3px 12px;text-align:right}</style>`;
  const el = h('iframe', { sandbox: 'allow-scripts', title: 'Output', src: url });
  const source = `<!doctype html><meta charset="utf-8">${looks}${textOf(html)}${SIZER}`;
  let filled = null; // the frame's window, which is another one when the frame is put back into the page
  const listen = ({ source: from, data }) => {
    if (from !== el.contentWindow) return;
    // Once: a frame that its own script has sent elsewhere gets nothing more.
    if (data?.zbrainFrame === 'ready' && from !== filled) {
      filled = from;
      from.postMessage({ html: source }, '*');
    } else if (data?.zbrainHeight > 0) el.style.height = `${Math.min(MAX_HEIGHT, data.zbrainHeight + 4)}px`;
  };
  addEventListener('message', listen);
  host.append(el);
  return () => removeEventListener('message', listen);
};
