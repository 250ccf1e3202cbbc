// How much of each limit is used that somebody has set: a row of bars, empty where nobody has.
import { bytes, h } from '../elements.js';

const WORDS = {
  running: 'running',
  pending: 'waiting',
  log_bytes_per_sec: 'log',
  sockets: 'connections',
  stored_bytes: 'stored',
};
const NEARLY = 0.9; // from here on a bar warns

const many = (n) => n.toLocaleString('en');

/** "running 3 of 4", "log 80 of 100 KB/s". */
export function usedOf({ quota, used, limit }) {
  const word = WORDS[quota] ?? quota;
  if (!quota.includes('bytes')) return `${word} ${many(used)} of ${many(limit)}`;
  const [amount, unit] = bytes(used).split(' ');
  const all = bytes(limit);
  const part = all.endsWith(` ${unit}`) ? amount : `${amount} ${unit}`;
  return `${word} ${part} of ${all}${quota.endsWith('per_sec') ? '/s' : ''}`;
}

/** A bar for each use (see `QuotaUse`), those of an owner with the name. */
export const quotaBars = (uses) =>
  uses.map((use) => {
    const part = Math.min(1, use.used / use.limit);
    const text = use.of === 'owner' ? `${use.name}: ${usedOf(use)}` : usedOf(use);
    const meter = h('span', {
      class: 'zb-meter',
      role: 'meter',
      'aria-label': text,
      'aria-valuemin': 0,
      'aria-valuemax': use.limit,
      'aria-valuenow': use.used,
    });
    meter.style.setProperty('--p', `${(part * 100).toFixed(1)}%`); // an attribute would be against the console's policy
    return h('span', { class: 'zb-quota', title: `Limit of the ${use.of} ${use.name}`, 'data-near': String(part >= NEARLY) }, meter, text);
  });
