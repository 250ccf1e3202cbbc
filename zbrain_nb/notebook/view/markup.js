// The text of an HTML output, for a summary that shows no HTML of a job: `markup.py` says the same.

const STEPS = [
  [/<!--.*?(?:-->|$)/gs, ''],
  [/<(script|style|template|title|noscript)\b.*?(?:<\/\1\s*>|$)/gis, ''],
  [/\s+/g, ' '],
  [/<\/t[dh] ?>/gi, '\t'],
  [
    /<\/?(?:address|article|blockquote|br|caption|dd|div|dl|dt|figcaption|figure|footer|h[1-6]|header|hr|li|ol|p|pre|section|summary|table|tr|ul)\b[^<>]*>/gi,
    '\n',
  ],
  [/<\/?[a-z][^<>]*>/gi, ''],
];

/** The words of `source`, a line for each block or row, the cells of a row parted by tabs. */
export function textOfHtml(source) {
  const bare = STEPS.reduce((text, [pattern, instead]) => text.replace(pattern, instead), source);
  return unescaped(bare)
    .split('\n')
    .map((line) => line.replace(/ ?\t ?/g, '\t').trimEnd().replace(/^ +/, ''))
    .filter(Boolean)
    .join('\n');
}
/** With its entities as letters. Of what is parsed no element comes, and nothing in it would run or load. */
function unescaped(text) {
  const page = new DOMParser().parseFromString(`<pre>\n${text.replaceAll('<', '&lt;')}`, 'text/html');
  return page.body.textContent;
}
