// Requests to the server's API, from a page that is logged in to Jupyter.

export class Refused extends Error {
  constructor(status, body) {
    super(body?.error?.message ?? `The server answered ${status}.`);
    this.status = status;
  }
}

/** No answer came: the server, or the way to it, is down. */
export class NoAnswer extends Error {}

/** Where the API is, by the page's own configuration; null on a page that is not Jupyter's. */
export function apiOfPage() {
  const text = document.getElementById('jupyter-config-data')?.textContent;
  const base = text ? JSON.parse(text).baseUrl : null;
  return base ? `${new URL(base, location.href).href.replace(/\/?$/, '/')}zbrain/api/` : null;
}

/** Return what the server answered, and its clock (milliseconds, 0 if it did not say). */
export async function ask(url, { method = 'GET', body, patience = 30_000 } = {}) {
  const headers = {};
  if (method !== 'GET') {
    headers['Content-Type'] = 'application/json';
    const xsrf = /(?:^|; )_xsrf=([^;]+)/.exec(document.cookie)?.[1];
    if (xsrf) headers['X-XSRFToken'] = decodeURIComponent(xsrf);
  }
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
