// What the notebook keeps of an ended job, made by the page: the kernel that would have done it (`bundle.py`, which
// says the same) may have been restarted meanwhile. The HTML is for readers without this view: exports, GitHub.
import { h, plural, span } from './elements.js';
import { textOfHtml } from './markup.js';
import { textOf, valueText } from './outputs.js';
import { cut, plainText } from './text.js';
import { failureOf, inside, leftOutOf, usedOf } from './words.js';

const MIME_TYPE = 'application/vnd.zbrain.job+json';
const SPEC_FIELDS = ['max_retries', 'timeout_secs', 'worker', 'resources']; // code, inputs, environment: the server's
const IMAGES = ['image/png', 'image/jpeg', 'image/gif', 'image/webp'];
const COLORS = { succeeded: '#2e7d32', failed: '#c62828' };
const MAX_LOG_LINES = 200;
const SHORT_LOG = 20; // lines
const MAX_LINE_CHARS = 2000;
const MAX_VALUE_CHARS = 64 * 1024;
const MAX_OUTPUTS_CHARS = 4 * 1024 * 1024;
const BARE = /^<[^\n]*>$/; // what Python says of an object that says nothing of itself

const sizeOf = (value) => JSON.stringify(value ?? null).length;

/** The display data of an ended job, by mime type. */
export function bundleOf(feed) {
  const { spec, ...job } = feed.job;
  job.spec = Object.fromEntries(SPEC_FIELDS.filter((field) => field in spec).map((field) => [field, spec[field]]));
  if (sizeOf(job.output) > MAX_VALUE_CHARS) job.output = null;
  if (sizeOf(job.error) > MAX_VALUE_CHARS) job.error = { ...job.error, traceback: [] };
  let from = feed.outputs.length;
  for (let size = 0; from > 0; from -= 1) {
    size += sizeOf(feed.outputs[from - 1]);
    if (size > MAX_OUTPUTS_CHARS) break;
  }
  const outputs = feed.outputs.slice(from);
  const log = [];
  for (let seq = Math.max(feed.log.begin, feed.log.end - MAX_LOG_LINES); seq < feed.log.end; seq += 1) {
    const entry = feed.log.get(seq);
    if (entry) log.push({ ...entry, line: entry.line.slice(0, MAX_LINE_CHARS) });
  }
  const saved = { ...feed.saved, cached: feed.cached, job, log, outputs };
  saved.outputs_left_out = from;
  saved.viewer = feed.viewer;
  return { [MIME_TYPE]: saved, 'text/html': html(saved), 'text/plain': '<zbrain job>' };
}

function html({ id, name, state, cached, job, log, outputs, outputs_left_out: leftOut }) {
  const { ename = '', evalue = '', traceback = [] } = job.error ?? {};
  const word = cached ? 'Cached' : `${state[0].toUpperCase()}${state.slice(1)}`;
  const value = job.output;
  const reason = state === 'failed' ? failureOf({ job }).reason : job.reason; // not what the error says too
  const isShown = outputs.some(({ output_type: type }) => type === 'execute_result');
  const shown = [
    h(
      'p',
      {},
      h('b', { style: `color:${COLORS[state] ?? 'inherit'}` }, word),
      ' ',
      h('b', {}, plainText(name)),
      factsOf(job).map((fact) => ` \u00b7 ${plainText(fact)}`),
    ),
    reason && h('p', {}, plainText(cut(reason))),
    job.error && pre(traceback.join('\n') || `${ename}: ${evalue}`),
    leftOut > 0 && h('p', {}, leftOutOf({ leftOut })),
    outputs.map(({ data = {} }) => pictureOf(data)),
    value != null && !isShown && pre(valueText(value)),
    log.length > 0 && logOf(log, !outputs.length && value == null && !job.error),
    h('p', {}, h('code', {}, `client.job("${id}")`)),
  ];
  return h('div', {}, shown).outerHTML;
}
function factsOf(job) {
  const { started_at: start, finished_at: end, exit_code: code, variables = [], artifacts = [] } = job;
  return [
    start && end && `ran ${span((Date.parse(end) - Date.parse(start)) / 1000)}`,
    ...usedOf(job).map(([name, text]) => `${inside(name)} ${text}`),
    end && `ended ${new Date(end).toISOString().slice(0, 16).replace('T', ' ')} UTC`,
    code != null && `exit code ${code}`,
    ...[...variables, ...artifacts].map((each) => `kept ${each.name}`),
  ].filter(Boolean);
}
/** The log as far as it is here, open if it is short or `alone`. */
function logOf(log, alone) {
  const total = log.at(-1).seq + 1;
  const count = `${log.length < total ? `last ${log.length.toLocaleString('en')} of ` : ''}${plural(total, 'line')}`;
  const lines = pre(log.map(({ line }) => line).join('\n'));
  return h('details', { open: alone || total <= SHORT_LOG }, h('summary', {}, `Log, ${count}`), lines);
}
/** An image or the text of an output: a job's own HTML is not trusted in a page that others open. */
function pictureOf(data) {
  const [words, markdown, latex, html] = ['text/plain', 'text/markdown', 'text/latex', 'text/html'].map((mime) =>
    textOf(data[mime] ?? ''),
  );
  const text = plainText(markdown || (!BARE.test(words) && words) || latex || textOfHtml(html) || words);
  const type = IMAGES.find((mime) => data[mime]);
  if (!type) return text && pre(text);
  return h('p', {}, h('img', { src: `data:${type};base64,${textOf(data[type]).replace(/\s/g, '')}`, alt: text }));
}
const pre = (text) => h('pre', {}, plainText(text));
