// Text from jobs, made safe to read: ANSI colours as classes, bidi controls visible, Python lightly coloured.
import { button, h } from './elements.js';

const SGR = /\x1b\[([0-9;:]*)m/;
// Every other escape sequence (cursor moves, titles, links), and control characters but the tab, is dropped.
const OTHER =
  /\x1b\[[0-?]*[ -/]*[@-ln-~]|\x9b[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]/g;
const BIDI = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
const MAX_LINE = 4000;
const MAX_LINE_RUNS = 200; // parts of a line in colours of their own, and hits in it
const MAX_RUNS = 5_000; // such parts of a text: each is an element, and tens of thousands take a browser seconds
const MAX_TEXT = 200_000; // characters that are shown without being asked for: so do millions of them
const LEAST_TEXT = 2_000; // of a text that comes when others have used all that up

export const plainText = (text) =>
  text
    .replace(OTHER, '')
    .replace(/\x1b\[[0-9;:]*m/g, '')
    .replace(/\x1b/g, '');
/** A name with its direction marks written out, so that it cannot pass for another. */
export const visibleName = (text) =>
  plainText(String(text)).replace(
    BIDI,
    (mark) => `\u27e8U+${mark.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}\u27e9`,
  );

const RESETS = { 22: [1, 2], 23: [3], 24: [4] };
function style(on, codes) {
  const list = codes === '' ? [0] : codes.split(/[;:]/).map(Number);
  for (let i = 0; i < list.length; i += 1) {
    const code = list[i];
    if (code === 0) on.clear();
    else if (code === 38 || code === 48) {
      // 256 and true colours bring arguments of their own, which are no codes.
      const rgb = list[i + 1] === 2 ? list.slice(i + 2, i + 5) : palette(list[i + 2]);
      i += list[i + 1] === 2 ? 4 : 2;
      if (code === 38) color(on, rgb);
    } else if (code === 39) color(on, null);
    else if (RESETS[code]) RESETS[code].forEach((old) => on.delete(old));
    else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) color(on, code);
    else if (code >= 1 && code <= 4) on.add(code);
  }
}
function color(on, value) {
  for (const old of [...on]) if (typeof old === 'string' || old >= 30) on.delete(old);
  if (value != null) on.add(Array.isArray(value) ? `rgb(${value.map((v) => v || 0).join(' ')})` : value);
}
function palette(n) {
  if (!(n >= 0 && n < 256)) return null;
  if (n < 16) return n < 8 ? 30 + n : 82 + n;
  if (n >= 232) return Array(3).fill(8 + 10 * (n - 232));
  const step = (v) => (v ? 55 + 40 * v : 0);
  return [step(Math.floor((n - 16) / 36)), step(Math.floor((n - 16) / 6) % 6), step((n - 16) % 6)];
}

/** Parts of a text and their colours; behind `most` of them what follows is one, without colours. */
function runs(text, most) {
  const out = [];
  let rest = '';
  const on = new Set();
  text
    .replace(OTHER, '')
    .split(SGR)
    .forEach((part, i) => {
      if (i % 2) style(on, part);
      else if (!part) return;
      else if (out.length < most) out.push([part.replace(/\x1b/g, ''), [...on]]);
      else rest += part.replace(/\x1b/g, '');
    });
  return rest ? [...out, [rest, []]] : out;
}

/** Nodes of a line with its colours, the first `most` characters; `query` (lower case) is marked where it occurs. */
export function ansi(line, query = '', most = MAX_LINE, mostRuns = MAX_LINE_RUNS) {
  const long = line.length > most;
  const parts = runs(long ? line.slice(0, most) : line, mostRuns);
  const hits = [];
  if (query) {
    const whole = parts
      .map(([text]) => text)
      .join('')
      .toLowerCase();
    for (let at = whole.indexOf(query); at >= 0 && hits.length < mostRuns; at = whole.indexOf(query, at + query.length)) hits.push(at);
  }
  let start = 0;
  const nodes = parts.map(([text, on]) => {
    const kids = hits.length ? marked(text, start, hits, query.length) : [text];
    start += text.length;
    if (!on.length) return kids;
    const rgb = on.find((code) => typeof code === 'string');
    const names = on.map((code) => (typeof code === 'string' ? 'zb-ax' : `zb-a${code}`));
    return h('span', { class: names.join(' '), vars: rgb ? { '--a': rgb } : null }, kids);
  });
  if (long)
    nodes.push(
      h('span', { class: 'zb-mute' }, ` \u2026 ${(line.length - most).toLocaleString('en')} more characters`),
    );
  return nodes;
}
/** What texts that stand together may take of the page, all in all, without being asked for; `fill` takes from it. */
export const newBudget = () => ({ characters: MAX_TEXT, runs: MAX_RUNS });

/** Put a text of many lines into `box` with its colours: all of it, a very long one when that is asked for. */
export function fill(box, text, budget = newBudget()) {
  const most = Math.max(LEAST_TEXT, budget.characters);
  const all = () => {
    fill(box, text, { characters: Infinity, runs: MAX_RUNS });
    box.tabIndex = -1; // the button that had the keyboard is gone
    box.focus({ preventScroll: true });
  };
  const nodes = ansi(text, '', most, budget.runs);
  budget.characters = Math.max(0, budget.characters - text.length);
  budget.runs = Math.max(0, budget.runs - nodes.length);
  box.replaceChildren(h('span', {}, nodes));
  if (text.length > most) box.append(' ', button('Show all', { onclick: all }));
  return box;
}
function marked(text, start, hits, length) {
  const kids = [];
  let at = 0;
  for (const hit of hits) {
    const from = Math.max(hit - start, at);
    const to = Math.min(hit - start + length, text.length);
    if (to <= from) continue;
    kids.push(text.slice(at, from), h('mark', {}, text.slice(from, to)));
    at = to;
  }
  kids.push(text.slice(at));
  return kids;
}

const PYTHON =
  /(#[^\n]*)|("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(^%{1,2}.*$)|\b(for|in|import|from|as|def|class|return|if|elif|else|try|except|finally|with|raise|while|not|and|or|is|lambda|yield|async|await|None|True|False)\b|\b(\d[\d_.e-]*)\b/gm;
export function python(source) {
  const nodes = [];
  let at = 0;
  for (const m of source.matchAll(PYTHON)) {
    const kind = m[1] ? 'zb-com' : m[2] ? 'zb-str' : m[3] ? 'zb-mag' : m[4] ? 'zb-k' : 'zb-n';
    nodes.push(source.slice(at, m.index), h('span', { class: kind }, m[0]));
    at = m.index + m[0].length;
  }
  nodes.push(source.slice(at));
  return nodes;
}
