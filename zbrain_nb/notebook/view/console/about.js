// What stands beside a job on its page: times, where it comes from, what it asks for, its inputs and environment.
import { clock, copyButton, fillBy, h, memorySize, plural, span, timeOfDay } from '../elements.js';
import { valueText } from '../outputs.js';
import { fillBriefly, visible, visibleName } from '../text.js';
import { notebookOf, tagsOf, usedOf } from '../words.js';

const FEW = 8; // more facts than these fold
const MOST_FACTS = 100; // of a section at first, and so many more at a time

const ms = (iso) => (iso ? Date.parse(iso) : null);

/** The sections that change while it runs, those that have something to say. */
export function courseOfJob({ job, loaded }) {
  const { spec } = job;
  const started = ms(job.started_at);
  const ended = ms(job.finished_at);
  return [
    section('Times', [
      ['Submitted', job.created_at && timeOfDay(ms(job.created_at))],
      ['Waited', started && job.attempt <= 1 && span((started - ms(job.created_at)) / 1000)],
      ['Started', started && timeOfDay(started)],
      ['Ended', ended && timeOfDay(ended)],
      ['Ran', started && ended && span((ended - started) / 1000)],
      ['Deadline', loaded && (spec.timeout_secs == null ? 'none' : clock(spec.timeout_secs))],
    ]),
    section('Used', usedOf(job, spec.resources?.memory_mb)),
  ]
    .flat(2)
    .filter(Boolean);
}
/** The sections of what it is. */
export function aboutJob(feed, jobUrl) {
  const { job } = feed;
  const { spec } = job;
  const { cpus, memory_mb: memory, gpus } = spec.resources ?? {};
  const after = spec.after ?? [];
  const limits = Object.entries(spec.limits ?? {}).filter(([, value]) => value != null);
  const link = (id) => h('a', { href: jobUrl(id), class: 'zb-mono' }, `${id.slice(0, 13)}\u2026`);
  return [
    section('From', [
      ['Notebook', notebookOf(job)],
      ['Owner', job.owner],
      ['Organisation', job.org_id],
      ['Tags', tagsOf(job).map(([key, value]) => `${key}=${value}`).join(', ')],
      ['Repeats', job.retry_of && link(job.retry_of)],
      ['Folder', spec.cwd],
    ]),
    section('Asks for', [
      ['Runs on', spec.worker],
      ['Interpreter', spec.kernel],
      ['Resources', [cpus && plural(cpus, 'CPU'), memory && memorySize(memory), gpus && plural(gpus, 'GPU')].filter(Boolean).join(', ')],
      ['Priority', spec.priority ? String(spec.priority) : null],
      ['Retries', feed.loaded && String(spec.max_retries)],
      ['If lost', spec.rerun_if_lost == null ? null : spec.rerun_if_lost ? 'run again' : 'not run again'],
      ['Waits for', after.length > 0 && h('span', {}, after.slice(0, FEW).map((id) => [link(id), ' ']))],
      ['Keeps files', spec.artifacts?.join(', ')],
      ...limits.map(([key, value]) => [key.replaceAll('_', ' '), String(value)]),
    ]),
    section('Parameters', parametersOf(spec.input)),
    section('Inputs', Object.entries(spec.inputs ?? {}).map(([name, sha256]) => [visibleName(name), `blob ${sha256.slice(0, 12)}`])),
    section('Environment', [
      ...Object.keys(spec.env ?? {}).sort().map((name) => [visibleName(name), h('span', { class: 'zb-mute' }, 'masked')]),
      ...(spec.secrets ?? []).map((name) => [visibleName(name), h('span', { class: 'zb-mute' }, 'secret')]),
    ]),
    feed.loaded && [
      h('h2', {}, 'Reference'),
      h(
        'div',
        { class: 'zb-copy' },
        h('code', { tabindex: 0, role: 'group', 'aria-label': 'Reference to this job' }, `client.job("${job.id}")`),
        copyButton(`client.job("${job.id}")`),
      ),
    ],
  ]
    .flat(2)
    .filter(Boolean);
}

function parametersOf(input) {
  if (input == null || typeof input !== 'object') return input == null ? [] : [['value', valueText(input)]];
  return Object.entries(input).map(([name, value]) => [visibleName(name), valueText(value)]);
}

function section(title, facts) {
  const said = facts.filter(([, value]) => value);
  if (!said.length) return null;
  const list = fillBy(MOST_FACTS, h('dl', { class: 'zb-facts' }), said, ([key, value]) => [
    h('dt', {}, key),
    typeof value === 'string' ? fillBriefly(h('dd'), visible(value)) : h('dd', {}, value),
  ]);
  if (said.length <= FEW) return [h('h2', {}, title), list[0]];
  return [h('h2', {}, title), h('details', {}, h('summary', {}, `${said.length.toLocaleString('en')} names`), list)];
}
