// What the view says of a job, in words: pure functions of a feed and the time.
import { sameCellAnswerOf } from './earlier.js';
import { STATE_WORDS, clock, memorySize, plural, span, timeLeft, timeOfDay } from './elements.js';
import { ENDED } from './feed.js';
import { cut, plainText } from './text.js';

// What a job or its owner has worded: without the escapes and controls that it may hold.
const whole = (text) => plainText(String(text ?? ''));
const said = (text) => plainText(cut(String(text ?? '')));
const reasonOf = (job) => said(job.reason);
/** Why it is tried again, in full; when that will be is told by what counts down. */
const whyOf = (job) => whole(job.reason).replace(/ The next attempt starts in [\d.]+ s\.$/, '');
const ms = (iso) => (iso ? Date.parse(iso) : null);
export const inside = (text) => (/^[A-Z][a-z ]/.test(text) ? text[0].toLowerCase() + text.slice(1) : text);
const sentence = (text) => (/[.!?\u2026]$/.test(text) ? text : `${text}.`);
/** How many attempts there may be: neither a lost one nor one that a worker gave back unstarted uses up a retry. */
export function attemptsOf({ attempt, state, spec, failures = 0, losses = 0 }) {
  const open = state === 'running' || state === 'succeeded' || state === 'canceled' ? 1 : 0; // it is no failure
  const free = losses + Math.max(0, attempt - failures - losses - open);
  return Math.max(attempt, (spec.max_retries ?? 0) + 1 + free);
}

export function faceOf(feed) {
  if (feed.cached && feed.job.state === 'succeeded') return 'cached';
  if (feed.ended || feed.connection === 'live' || feed.connection === 'opening') return feed.job.state;
  return feed.connection;
}
export function wordOf(feed) {
  const face = faceOf(feed);
  return face === 'retrying' ? `Retrying ${feed.job.attempt + 1} of ${attemptsOf(feed.job)}` : STATE_WORDS[face];
}

const PRIVATE = 'zbrain.'; // tags that begin so are not people's
export const tagsOf = ({ spec }) => Object.entries(spec?.tags ?? {}).filter(([name]) => !name.startsWith(PRIVATE));
export const notebookOf = ({ spec }) => spec?.tags?.[`${PRIVATE}notebook`] ?? '';

export function errorText(job, word = whole) {
  const { error } = job;
  if (typeof error === 'string') return word(error);
  if (error?.ename) return word(error.evalue ? `${error.ename}: ${error.evalue}` : error.ename);
  return (
    word(error?.evalue) || word(job.reason) || (job.exit_code != null ? `Exit code ${job.exit_code}` : 'The job failed.')
  );
}
/** What stands for it in one line. */
export const errorLine = (job) => errorText(job, said).split('\n')[0];
export function failureOf({ job }) {
  if (job.state !== 'failed') return null;
  const text = errorText(job);
  const reason = whole(job.reason);
  // The foot has the exit code; what the error says is not said twice, but a reason may begin with it and say more.
  const known = /^exit code -?\d+\.?$/i.test(reason) || text.includes(reason.replace(/[.:]$/, ''));
  return { text, reason: known ? null : reason, error: job.error };
}

export const hasValue = (feed) => feed.job.output != null || Boolean(feed.job.result) || feed.values.length > 0;
function keptOf(feed) {
  const { variables = [], artifacts = [] } = feed.job;
  return [
    hasValue(feed) && 'value',
    variables.length && plural(variables.length, 'variable'),
    artifacts.length && plural(artifacts.length, 'artifact'),
  ].filter(Boolean);
}

/** The head's note. `open` views leave out what they say in full below. */
export function noteOf(feed, open) {
  const { job, now } = feed;
  if (faceOf(feed) === 'reconnecting') {
    return feed.heardAt ? `last heard ${ago(now - feed.clockSkew - feed.heardAt)} ago` : 'not connected yet';
  }
  if (faceOf(feed) === 'unknown') return job.created_at ? `was ${job.state} when last heard of` : ''; // or never was
  if (job.state === 'pending') return open && job.reason ? '' : reasonOf(job) || 'waiting for a worker';
  if (job.state === 'running') {
    if (job.cancel_requested_at) {
      return `cancel asked ${ago(now - ms(job.cancel_requested_at))} ago; the process tree gets INT, then TERM, then KILL`;
    }
    return said(job.progress?.note) || (job.started_at ? '' : 'starting');
  }
  if (job.state === 'retrying') {
    return `${startsIn(job, now)}${open || !job.reason ? '' : `; ${inside(cut(whyOf(job)))}`}`;
  }
  if (faceOf(feed) === 'cached') return `${open ? 'from' : 'same code and inputs as'} ${whenOf(job)}`;
  if (job.state === 'succeeded') return keptOf(feed).join(', ');
  if (job.state === 'failed') return open ? '' : errorLine(job);
  return [job.canceled_by && `by ${said(job.canceled_by)}`, job.started_at && `after ${clock(ranFor(job, now))}`]
    .filter(Boolean)
    .join(', ');
}
const whenOf = (job) => timeOfDay(ms(job.finished_at ?? job.created_at), false);
function ago(millis) {
  const secs = Math.max(0, millis / 1000);
  return secs < 100 ? `${Math.round(secs)} s` : clock(secs);
}
function startsIn(job, now) {
  const left = (ms(job.not_before) ?? now) - now;
  return left > 500 ? `starts in ${clock(left / 1000)}` : 'waiting for a worker';
}
const ranFor = (job, now) => ((ms(job.finished_at) ?? now) - ms(job.started_at)) / 1000;

export function noticeOf(feed) {
  return [feed.problem, offline(feed), question(feed), stateNotice(feed)].filter(Boolean).join(' ');
}
/** What a notice says that must not be missed by who cannot see it. */
export const alertOf = (feed) => [feed.problem, question(feed), sameCellAnswerOf(feed)].filter(Boolean).join(' ');
function question(feed) {
  if (!feed.asks) return '';
  return `This is the code of ${said(feed.job.owner)}; it will run as you, with all that you may read and change.`;
}
function offline(feed) {
  if (feed.connection === 'unknown') {
    if (feed.refusal) return `${sentence(feed.refusal)} What was here until then is shown.`;
    return `The server does not know this job.${feed.job.created_at ? ' What the notebook saved of it is shown.' : ''}`;
  }
  if (feed.connection !== 'reconnecting') return '';
  const left = feed.nextTryAt ? Math.ceil((feed.nextTryAt - Date.now()) / 1000) : 0;
  const next = left > 0 ? `Next try in ${left} s.` : 'Trying now.';
  const saved = feed.loaded ? '' : ' What the notebook saved is shown.';
  if (feed.refusal) return `${sentence(feed.refusal)}${saved} ${next}`;
  if (saved) return `No connection to the server.${saved} ${next}`;
  const since = `No connection to the server since ${timeOfDay(feed.heardAt)}.`;
  if (feed.ended) return `${since} ${next}`;
  const goesOn =
    feed.job.state === 'running' ? 'The job goes on; what it writes' : 'The job is kept; what becomes of it';
  return `${since} ${goesOn} will be here when the connection is back. ${next}`;
}
function stateNotice(feed) {
  const { job } = feed;
  if (job.state === 'pending') {
    const again = job.retry_of ? 'A new job with the same code and inputs; the old one stays in the history.' : '';
    return [job.reason && sentence(reasonOf(job)), again].filter(Boolean).join(' ');
  }
  if (faceOf(feed) === 'cached') {
    const took = job.started_at ? `, which took ${span(ranFor(job))}` : '';
    const kept = [hasValue(feed) && 'value', job.variables?.length && 'variables', feed.displays.length && 'outputs'].filter(Boolean);
    const list = kept.length > 1 ? `${kept.slice(0, -1).join(', ')} and ${kept.at(-1)}` : kept[0];
    const shown = list ? ` Its ${list} ${list === 'value' ? 'is' : 'are'} shown.` : '';
    return `Nothing ran: same code and same inputs as ${said(job.name)} of ${whenOf(job)}${took}.${shown}`;
  }
  if (job.state !== 'canceled') return '';
  const who = reasonOf(job) || `Canceled${job.canceled_by ? ` by ${said(job.canceled_by)}` : ''}`;
  const at = job.finished_at ? `at ${timeOfDay(ms(job.finished_at))}` : '';
  if (!job.started_at) return `${sentence(who)} It ended ${at}${at && ' '}before it ran.`;
  const kept = [
    feed.log.end && 'the log',
    feed.displays.length && plural(feed.displays.length, 'output'),
    job.artifacts?.length && plural(job.artifacts.length, 'artifact'),
  ].filter(Boolean);
  const list = kept.length > 1 ? `${kept.slice(0, -1).join(', ')} and ${kept.at(-1)}` : kept[0];
  const are = kept.length > 1 || (list && !/^(the|1) /.test(list)) ? 'are' : 'is';
  const rest = list ? ` ${list[0].toUpperCase()}${list.slice(1)} ${are} kept.` : '';
  return `${sentence(who)} It ended${at && ` ${at}`} and its processes are gone.${rest}`;
}

/** Elapsed time and what stands beside it. */
export function timesOf(feed) {
  const { job, now } = feed;
  if (faceOf(feed) === 'unknown' || faceOf(feed) === 'cached' || job.state === 'retrying') return ['', ''];
  if (job.state === 'pending') return job.created_at ? [clock((now - ms(job.created_at)) / 1000), 'waiting'] : ['', ''];
  const ran = job.started_at ? clock(ranFor(job, now)) : '';
  if (!ENDED.has(job.state)) return [ran, etaOf(feed)];
  return [ran, job.finished_at ? `at ${timeOfDay(ms(job.finished_at), false)}` : ''];
}
function etaOf(feed) {
  const { job } = feed;
  const { fraction: done, at, since } = job.progress ?? {};
  if (faceOf(feed) !== 'running' || feed.canceling || !since || done >= 1) return '';
  // By how fast it has grown, not since the job began: one that goes on from a checkpoint begins far ahead.
  const took = at - since.at;
  if (took < 1 || !(done > since.fraction)) return '';
  const left = (took / (done - since.fraction)) * (1 - done) - (feed.now / 1000 - at);
  return left > 0 ? timeLeft(left) : '';
}
export const fractionOf = (feed) => {
  const { job } = feed;
  const done = job.progress?.fraction;
  return job.state === 'running' && faceOf(feed) !== 'unknown' && Number.isFinite(done)
    ? Math.min(1, Math.max(0, done))
    : null;
};
export const placeOf = (feed) => (faceOf(feed) === 'cached' ? 'nothing ran' : said(feed.job.spec.worker));

/** The attempts of a job between two of them: at most four blocks, however many there are. That of the next has no note. */
export function triesOf(feed) {
  const { job } = feed;
  if (job.state !== 'retrying' || faceOf(feed) === 'unknown') return null;
  const last = job.attempt;
  const all = attemptsOf(job);
  const range = (a, b) => (a === b ? `Attempt ${a}` : `Attempts ${a} to ${b}`);
  const states = statesOf(feed);
  const ended = (state) => (state === 'lost' ? 'lost' : 'failed');
  return [
    last > 1 && { ...earlierOf(feed, states), name: range(1, last - 1) },
    last > 0 && {
      state: ended(states?.at(-1)),
      name: range(last, last),
      note: job.reason ? sentence(whyOf(job)) : 'Did not succeed',
    },
    { state: 'retrying', name: range(last + 1, last + 1) },
    all > last + 1 && { state: 'pending', name: range(last + 2, all), note: 'If needed' },
  ].filter(Boolean);
}
/** What is told of the next attempt: it counts down. */
export function nextTryOf({ job, now }) {
  const next = startsIn(job, now);
  const at = job.not_before && next.startsWith('starts') ? `, at ${timeOfDay(ms(job.not_before))}` : '';
  return `${next[0].toUpperCase()}${next.slice(1)}${at}`;
}
/** How each attempt ended, oldest first; null where only the counts are known, and do not tell. */
function statesOf({ job, attempts }) {
  const { attempt: count, failures = 0, losses = 0 } = job;
  if (attempts.length === count && attempts.at(-1)?.attempt === count) return attempts.map(({ state }) => state);
  if (losses === count) return Array(count).fill('lost');
  return failures === count ? Array(count).fill('failed') : null;
}
/** What is told of all attempts but the last, as one: the reason of a single one, else how many ended how. */
function earlierOf({ job, attempts }, states) {
  if (!states) return { state: 'failed', note: 'Did not succeed either' };
  const before = states.slice(0, -1);
  const lost = before.filter((state) => state === 'lost').length;
  const reason = before.length === 1 && attempts.length === job.attempt ? whole(attempts[0].reason) : '';
  const counts = [before.length > lost && `${before.length - lost} failed`, lost && `${lost} lost`];
  const one = lost ? 'Lost' : 'Failed';
  return {
    state: lost === before.length ? 'lost' : 'failed',
    note: reason ? sentence(reason) : before.length === 1 ? one : counts.filter(Boolean).join(', '),
  };
}

/** What an attempt has used, as pairs, as far as it is known; `asked` is how much memory it may take, in MiB. */
export function usedOf({ peak_memory_mb: peak, cpu_secs: cpu }, asked) {
  const took = peak ? memorySize(peak) : null;
  const of = took && asked ? memorySize(asked) : null;
  const [number, unit] = took?.split(' ') ?? [];
  return [
    took && ['Peak memory', of ? `${of.endsWith(` ${unit}`) ? number : took} of ${of}` : took],
    cpu >= 0.05 && ['CPU time', span(cpu)],
  ].filter(Boolean);
}

/** The facts of the foot, as pairs. */
export function footOf(feed) {
  const { job, shipped } = feed;
  const { spec } = job;
  if (faceOf(feed) === 'cached') return null; // its facts are those of a run that was not made
  const ended = ENDED.has(job.state);
  const { cpus, memory_mb: memory, gpus } = spec.resources ?? {};
  const asks = [
    cpus && plural(cpus, 'CPU'),
    memory && memorySize(memory),
    gpus && plural(gpus, 'GPU'),
  ].filter(Boolean);
  const limit = spec.timeout_secs;
  const until =
    job.state === 'running' && job.started_at && limit ? `, at ${timeOfDay(ms(job.started_at) + limit * 1000)}` : '';
  const waited = job.started_at && job.attempt <= 1 ? span((ms(job.started_at) - ms(job.created_at)) / 1000) : null;
  const facts = [
    !job.started_at && job.created_at && ['Submitted', timeOfDay(ms(job.created_at))],
    !job.started_at && asks.length && ['Asks for', asks.join(', ')],
    waited && ['Waited', waited],
    ended && job.started_at && job.finished_at && ['Ran', span(ranFor(job))],
    ...usedOf(job, memory),
    ended && job.exit_code != null && ['Exit code', String(job.exit_code)],
    job.attempt > 0 && ['Attempt', `${job.attempt} of ${attemptsOf(job)}`],
    job.worker_id && ['Worker', said(job.worker_id)],
    shipped && ['Took along', shipped],
    'timeout_secs' in spec && ['Deadline', limit == null ? 'none' : `${clock(limit)}${until}`],
  ].filter(Boolean);
  return facts.length ? facts : null;
}

/** That the notebook did not keep all outputs; empty once they are here. */
export function leftOutOf({ leftOut }) {
  if (!leftOut) return null;
  const where = 'kept with the job: open it in zbrain.';
  return leftOut === 1
    ? `The first output was too large for the notebook, and is ${where}`
    : `The first ${leftOut.toLocaleString('en')} outputs were too large for the notebook, and are ${where}`;
}
