// Text from jobs, made safe to read: ANSI colours as classes, bidi controls visible, Python lightly coloured.
import { button, h, takeFocus } from './elements.js';

const SGR = /\x1b\[([0-9;:]*)m/;
// Every other escape sequence (cursor moves, titles, links), and control characters but the tab, is dropped.
const OTHER =
  /\x1b\[[0-?]*[ -/]*[@-ln-~]|\x9b[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]/g;
const BIDI = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
const MAX_LINE = 4000;
const MAX_LINE_RUNS = 200; // parts of a line in colours of their own, and hits in it
const MAX_SAID = 1_000; // of what is a sentence, or the name of something
const MAX_RUNS = 5_000; // such parts of a text: each is an element, and tens of thousands take a browser seconds
const MAX_TEXT = 200_000; // characters that are shown without being asked for: so do millions of them
const BREAK = 20; // characters that take a browser as long as a line break does
const LEAST_TEXT = 2_000; // of a text that comes when others have used all that up
const LEAST_LINE = 200;
const MAX_LINES = 2_000; // in rows of their own, some elements each
const MAX_DRAWN = 1_000_000; // characters of SVG: a browser draws it in the page's own time, a second for some of these

export const plainText = (text) =>
  text
    .replace(OTHER, '')
    .replace(/\x1b\[[0-9;:]*m/g, '')
    .replace(/\x1b/g, '');
/** The beginning of a text that is too long for its place. */
export const cut = (text) => (text.length > MAX_SAID ? `${text.slice(0, MAX_SAID)}\u2026` : text);
/** A text with its direction marks written out, so that it cannot pass for another. */
export const visible = (text) =>
  plainText(text).replace(
    BIDI,
    (mark) => `\u27e8U+${mark.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}\u27e9`,
  );
export const visibleName = (text) => visible(cut(String(text)));

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
  return long ? [...nodes, moreThan(line, most)] : nodes;
}
const moreThan = (text, most) =>
  h('span', { class: 'zb-mute' }, ` \u2026 ${(text.length - most).toLocaleString('en')} more characters`);

/**
 * What texts that stand together may take of the page, all in all, without being asked for; what shows them takes from it.
 * Lines in rows have characters of their own, for no button shows the rest of one: a long text beside them must not cut them.
 */
export const newBudget = () => ({ characters: MAX_TEXT, inRows: MAX_TEXT, runs: MAX_RUNS, lines: MAX_LINES, drawn: MAX_DRAWN });
export const spend = (budget, what, amount) => (budget[what] = Math.max(0, budget[what] - amount));
const words = (text, most, mostRuns) => ansi(text, '', most, mostRuns);

/** How many line breaks there are in a text, as far as it may be shown if it may cost `most`. */
function breaksIn(text, most) {
  let count = 0;
  for (let at = text.indexOf('\n'); at >= 0 && at + count * BREAK < most; at = text.indexOf('\n', at + 1)) count += 1;
  return count;
}

/** Put a text of many lines into `box`, as `draw` shows it: all of it, a very long one when that is asked for. */
export function fill(box, text, budget = newBudget(), draw = words) {
  const most = Math.max(LEAST_TEXT, budget.characters);
  const all = () => {
    fill(box, text, { characters: Infinity, runs: MAX_RUNS }, draw);
    takeFocus(box);
  };
  const breaks = breaksIn(text, most) * BREAK;
  const shown = Math.min(text.length, most - breaks);
  const nodes = draw(text, shown, budget.runs);
  spend(budget, 'characters', shown + breaks);
  spend(budget, 'runs', nodes.length);
  box.replaceChildren(h('span', {}, nodes));
  if (text.length > shown) box.append(' ', button('Show all', { onclick: all }));
  return box;
}
/** Put a text into `box`, which has little room: how it begins, all of it when that is asked for. */
export function fillBriefly(box, text) {
  box.replaceChildren(cut(text));
  const all = () => {
    fill(box, text, { characters: Infinity, runs: MAX_RUNS });
    takeFocus(box);
  };
  if (text.length > MAX_SAID) box.append(' ', button('Show all', { onclick: all }));
  return box;
}
/** Nodes of a line in a row of its own, as `draw` shows it: of each at least how it begins. */
export function rowOf(line, budget, draw = words) {
  const most = Math.max(LEAST_LINE, Math.min(MAX_LINE, budget.inRows));
  const nodes = draw(line, most, budget.runs);
  spend(budget, 'inRows', Math.min(line.length, most));
  spend(budget, 'runs', nodes.length);
  spend(budget, 'lines', 1);
  return nodes;
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

// Strings end with their line, or the text, where nothing else ends them: a search that fails would begin anew in each.
const PYTHON =
  /(#[^\n]*)|("""[^]*?(?:"""|(?![^]))|'''[^]*?(?:'''|(?![^]))|"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?)|(^%{1,2}.*$)|\b(for|in|import|from|as|def|class|return|if|elif|else|try|except|finally|with|raise|while|not|and|or|is|lambda|yield|async|await|None|True|False)\b|\b(\d[\d_.e-]*)\b/gm;

/** Nodes of the first `most` characters of a source with its colours; behind `mostRuns` nodes without. */
export function python(source, most, mostRuns) {
  const shown = source.slice(0, most);
  const nodes = [];
  let at = 0;
  for (const m of shown.matchAll(PYTHON)) {
    if (nodes.length >= mostRuns) break;
    const kind = m[1] ? 'zb-com' : m[2] ? 'zb-str' : m[3] ? 'zb-mag' : m[4] ? 'zb-k' : 'zb-n';
    nodes.push(shown.slice(at, m.index), h('span', { class: kind }, m[0]));
    at = m.index + m[0].length;
  }
  nodes.push(shown.slice(at));
  return shown === source ? nodes : [...nodes, moreThan(source, most)];
}
