// Requests to the server's API, from a page that is logged in to Jupyter.

export class Refused extends Error {
  constructor(status, body) {
    super(body?.error?.message ?? `The server answered ${status}.`);
    this.status = status;
  }
  /** What to tell of it where there is no connection. */
  get told() {
    return `The server answers: ${this.message}`;
  }
  /** Whether what was asked may have been done nevertheless: the answer of who stands between, or of a failure. */
  get isUnsure() {
    return this.status >= 500 && this.status !== 507; // which says that the disk is full
  }
}

/** No answer came: the server, or the way to it, is down. */
export class NoAnswer extends Error {}

/** Thrown where it is known why there is no way to the server. */
export class Unreached extends Refused {
  /** @param {boolean} isSilent whether it may be reached yet */
  constructor(why, isSilent = false) {
    super(503, { error: { message: why } });
    this.isSilent = isSilent;
    this.isSent = false; // whether it broke after the request was on its way
  }
  get isUnsure() {
    return this.isSent;
  }
  get told() {
    return this.message;
  }
}

/** The server as a page reaches it that is logged in to Jupyter. */
export class PageServer {
  constructor(api) {
    this.api = api;
  }
  ask(path, options) {
    return ask(this.urlOf(path), options);
  }
  events(query) {
    return new WebSocket(ownSocket(`${this.api.replace(/^http/, 'ws')}events?${query}`));
  }
  /** Where a file is. */
  urlOf(path) {
    return `${this.api}${path}`;
  }
  /** Where the console's page of a job is. */
  pageOf(id) {
    return `${this.api.replace(/api\/$/, '')}jobs/${encodeURIComponent(id)}`;
  }
  /** Where the console is. */
  homePage() {
    return this.api.replace(/\/api\/$/, '');
  }
  stop() {}
}

/** The server whose API is at an address; what is a server already stays. */
export const serverAt = (api) => (typeof api === 'string' ? new PageServer(api) : api);

/** A key for an act: under one key the server does it once, however often it is asked. It is kept until an answer comes. */
export const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');

/**
 * What to tell of an act that failed, and whether it `isUnsure`: it may have been done, and only the answer is lost.
 * @param {string} notDone what is told if it was not done
 */
export function failedAct(error, notDone) {
  const isUnsure = !(error instanceof Refused) || error.isUnsure;
  const why = error instanceof Refused ? error.message : 'the server did not answer.';
  return { isUnsure, text: isUnsure ? `Whether it was done is not known: ${why} To ask again does nothing twice.` : `${notDone}: ${why}` };
}

/** Where the API is, by the page's own configuration; null on a page that is not Jupyter's. */
export function apiOfPage() {
  const text = document.getElementById('jupyter-config-data')?.textContent;
  const base = text ? JSON.parse(text).baseUrl : null;
  return base ? `${new URL(base, location.href).href.replace(/\/?$/, '/')}zbrain/api/` : null;
}

/** What shows the server that a page of its own asks: JupyterHub wants it of reading requests too. */
export function ownHeaders() {
  const token = xsrfToken();
  return token ? { 'X-XSRFToken': token } : {};
}

/** A socket's address with the same: a page cannot send headers with it. */
function ownSocket(url) {
  const token = xsrfToken();
  return token ? `${url}&_xsrf=${encodeURIComponent(token)}` : url;
}

const xsrfToken = () => {
  const found = /(?:^|; )_xsrf=([^;]+)/.exec(document.cookie)?.[1];
  return found && decodeURIComponent(found);
};

/** Whether the jobs that were named are too large together, and fewer may not be. */
export const isTooMany = (error, ids) => error.status === 413 && ids.length > 1;

/** Ask a server to look at many jobs, or to do something to them: in halves where they are too large together. */
export async function askMany(server, verb, ids, options = {}) {
  try {
    return await server.ask(`jobs/${verb}`, { ...options, method: 'POST', body: { ids } });
  } catch (error) {
    if (!isTooMany(error, ids)) throw error;
  }
  const half = ids.length >> 1;
  const [first, date] = await askMany(server, verb, ids.slice(0, half), options);
  const [rest] = await askMany(server, verb, ids.slice(half), options);
  return [{ ...first, jobs: [...first.jobs, ...rest.jobs] }, date];
}

/** Return what the server answered, and its clock (milliseconds, 0 if it did not say). */
export async function ask(url, { method = 'GET', body, key, patience = 30_000 } = {}) {
  const headers = ownHeaders();
  if (key) headers['Idempotency-Key'] = key;
  if (method !== 'GET') headers['Content-Type'] = 'application/json';
  const answer = await fetch(url, {
    method,
    headers,
    body: body && JSON.stringify(body),
    credentials: 'same-origin',
    cache: 'no-store',
    signal: AbortSignal.timeout(patience),
  }).catch((cause) => {
    throw new NoAnswer('the server did not answer.', { cause });
  });
  const found = await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(answer.status, found);
  return [found, Date.parse(answer.headers.get('Date') ?? '') || 0];
}
