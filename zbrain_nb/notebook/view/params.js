// With what a job runs: its code or command, its inputs, its environment. Folded, for it is long and seldom asked for.
import { h } from './elements.js';
import { fill, newBudget, plainText, python, visibleName } from './text.js';
import { notebookOf, tagsOf } from './words.js';

const OF_CELLS = /^(cell|[0-9a-f]{64})$/; // by these a cell's variables travel, which the foot tells by their names

const names = (list) => list.map((each) => visibleName(each)).join(', ');
const pairs = (entries) =>
  entries.map(([key, value]) => `${visibleName(key)}=${plainText(String(value))}`).join(', ');
const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);
const isEmpty = (value) => value == null || (typeof value === 'object' && !Object.keys(value).length);

/** Rows of name and text, or null where only the server knows them and has not answered. */
export function paramsOf({ job }) {
  const { spec, owner, org_id: org, id } = job;
  const { code, cmd } = spec;
  if (code == null && !cmd && !spec.function) return null;
  const tags = tagsOf(job);
  const inputs = Object.keys(spec.inputs ?? {}).filter((name) => !(code != null && OF_CELLS.test(name)));
  const rows = [
    code != null && ['Code', plainText(code), 'python'],
    cmd && ['Command', plainText(cmd.map(quoted).join(' ')), 'mono'],
    spec.function && ['Function', 'shipped by value'],
    !isEmpty(spec.input) && ['Input', plainText(JSON.stringify(spec.input, null, 2)), 'mono'],
    inputs.length > 0 && ['Input files', names(inputs)],
    !isEmpty(spec.env) && ['Environment', `${names(Object.keys(spec.env))} (the values are not shown)`],
    !isEmpty(spec.secrets) && ['Secrets', names(spec.secrets)],
    notebookOf(job) && ['Notebook', visibleName(notebookOf(job))],
    spec.cwd && ['Folder', plainText(spec.cwd), 'mono'],
    spec.kernel && ['Kernel', visibleName(spec.kernel)],
    !isEmpty(spec.after) && ['Runs after', names(spec.after)],
    !isEmpty(spec.artifacts) && ['Keeps files', plainText(spec.artifacts.join(', '))],
    tags.length > 0 && ['Tags', pairs(tags)],
    spec.concurrency_group && ['Not beside', visibleName(spec.concurrency_group)],
    spec.priority && ['Priority', String(spec.priority)],
    spec.max_retries && ['Retries', String(spec.max_retries)],
    owner && ['Owner', org ? `${visibleName(owner)}, in ${visibleName(org)}` : visibleName(owner)],
    ['Id', id, 'mono'],
  ];
  return rows.filter(Boolean);
}

export function paramsSection(rows, open, ontoggle) {
  const budget = newBudget();
  const value = ([, text, kind]) =>
    fill(h(kind ? 'pre' : 'span'), text, budget, kind === 'python' ? python : undefined);
  const el = h(
    'details',
    { class: 'zb-sec zb-params', open, ontoggle: () => ontoggle(el.open) },
    h('summary', {}, 'Parameters and environment'),
    h(
      'dl',
      {},
      rows.map((row) => h('div', {}, h('dt', {}, row[0]), h('dd', {}, value(row)))),
    ),
  );
  return el;
}
