// The menu in the head of a view, for what is seldom wanted, and Detach in it: only while a kernel waits.
import { button, h, icon, newId } from './elements.js';

/**
 * @param {string} name of what it is for
 * @param {Node[]} items
 * @param {() => Promise<void>} offer shows and hides items; called when the list opens, and when its button is built
 *   anew beside it, since a feed that was not yet live may be by then
 * @returns {{opener: () => Node, list: Node}} makes the button that opens the list; the list stays open when another
 *   takes its place
 */
export function moreMenu(name, items, offer) {
  const id = newId('menu');
  // In the top layer, because Jupyter clips what leaves an output's box.
  const list = h('div', { id, class: 'zb-menu', popover: 'auto' }, items);
  let pressed = null; // the button that is on the page
  const close = ({ target }) => {
    if (pressed.isConnected && !target.contains(pressed)) return; // a log that follows its tail moves no button
    removeEventListener('scroll', close, true); // of a list that is gone from the page no toggle tells
    list.hidePopover();
  };
  let offering = null;
  const renew = () => {
    offering ??= offer().finally(() => {
      offering = null;
      place();
    });
  };
  let held = false; // whether the list had the keyboard when it closed
  list.addEventListener('beforetoggle', () => (held = list.contains(document.activeElement)));
  list.addEventListener('toggle', ({ newState }) => {
    if (newState !== 'open') {
      removeEventListener('scroll', close, true);
      // The browser gives it back to the button that opened the list, which may have been built anew.
      const { activeElement } = document;
      if (held && (activeElement === document.body || list.contains(activeElement))) pressed.focus({ preventScroll: true });
      return;
    }
    addEventListener('scroll', close, true);
    place();
    renew();
  });
  function place() {
    const at = pressed.getBoundingClientRect();
    const below = innerHeight - at.bottom > list.offsetHeight + 8;
    list.style.top = `${below ? at.bottom + 4 : at.top - list.offsetHeight - 4}px`;
    list.style.left = `${Math.max(4, at.right - list.offsetWidth)}px`;
  }
  function opener() {
    pressed = h(
      'button',
      {
        type: 'button',
        class: 'zb-btn zb-btn-bare zb-btn-icon',
        title: 'More',
        'aria-label': `More for ${name}`,
        popovertarget: id,
      },
      icon('more'),
    );
    if (list.matches(':popover-open')) renew();
    return pressed;
  }
  return { opener, list };
}

/** The item that lets go on who waits for what `feed` shows, and what offers it. */
export function detachItem(feed, title) {
  const letGo = () => {
    item.closest('[popover]').hidePopover();
    void feed.act('detach');
  };
  const item = button('Detach', { class: 'zb-btn-bare', title, hidden: true, onclick: letGo }, 'apart');
  async function offer() {
    let waiting = 0;
    try {
      if (!feed.ended && feed.canAct) waiting = await feed.countWaiting?.();
    } catch {
      // Without an answer nobody is known to wait, and Detach could not be done either.
    }
    item.hidden = !waiting;
  }
  return { item, offer };
}
