// Requests to the server's API, from a page that is logged in to Jupyter.

export class Refused extends Error {
  constructor(status, body) {
    super(body?.error?.message ?? `The server answered ${status}.`);
    this.status = status;
  }
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
export function ownSocket(url) {
  const token = xsrfToken();
  return token ? `${url}&_xsrf=${encodeURIComponent(token)}` : url;
}

const xsrfToken = () => {
  const found = /(?:^|; )_xsrf=([^;]+)/.exec(document.cookie)?.[1];
  return found && decodeURIComponent(found);
};

/** Return what the server answered, and its clock (milliseconds, 0 if it did not say). */
export async function ask(url, { method = 'GET', body, patience = 30_000 } = {}) {
  const headers = ownHeaders();
  if (method !== 'GET') headers['Content-Type'] = 'application/json';
  const answer = await fetch(url, {
    method,
    headers,
    body: body && JSON.stringify(body),
    credentials: 'same-origin',
    cache: 'no-store',
    signal: AbortSignal.timeout(patience),
  });
  const found = await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(answer.status, found);
  return [found, Date.parse(answer.headers.get('Date') ?? '') || 0];
}
