// Whether somebody is pressing a button: a browser gives the click to nobody if the button was built anew between the
// press and its release, a tenth of a second for a person. What rebuilds parts of a page waits so long.
const PRESSED = 'button, a, input, select, summary';
const ENDS = ['pointerup', 'pointercancel', 'blur'];

/** Watch what is pressed in `el`; `released` is called, before the click, when a press has ended. */
export function pressIn(el, released) {
  const press = { on: false, dispose };
  const begin = ({ target }) => {
    // Not of a scroll bar, whose release some browsers do not tell.
    press.on = Boolean(target.closest?.(PRESSED));
  };
  const end = () => {
    if (!press.on) return;
    press.on = false;
    released();
  };
  function dispose() {
    el.removeEventListener('pointerdown', begin);
    for (const kind of ENDS) removeEventListener(kind, end);
  }
  el.addEventListener('pointerdown', begin);
  for (const kind of ENDS) addEventListener(kind, end);
  return press;
}
