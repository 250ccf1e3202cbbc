// Whether somebody is pressing a button: a browser gives the click to nobody if the button was built anew between the
// press and its release, a tenth of a second for a person. What rebuilds parts of a page waits so long.
const PRESSED = 'button, a, input, summary'; // no select: its list takes the release, and it is never built anew
const ENDS = ['pointerup', 'pointercancel', 'contextmenu'];
const LONGEST_MS = 3_000; // a release that is told to nobody must not stop the page

/** Watch what is pressed in `el`; `released` is called, before the click, when a press has ended. */
export function pressIn(el, released) {
  const press = { on: false, dispose };
  let late = null;
  const begin = ({ button, target }) => {
    // Not of a scroll bar, whose release some browsers do not tell.
    if (button !== 0 || !target.closest?.(PRESSED)) return;
    press.on = true;
    clearTimeout(late);
    late = setTimeout(end, LONGEST_MS);
  };
  const end = () => {
    if (!press.on) return;
    press.on = false;
    clearTimeout(late);
    released();
  };
  function dispose() {
    clearTimeout(late);
    el.removeEventListener('pointerdown', begin, true);
    for (const kind of ENDS) removeEventListener(kind, end, true);
    removeEventListener('blur', end);
  }
  // Captured, since others on the page may keep these events to themselves.
  el.addEventListener('pointerdown', begin, true);
  for (const kind of ENDS) addEventListener(kind, end, true);
  addEventListener('blur', end); // the window's own, and not that of what had the focus
  return press;
}
