// Whether somebody is pressing a button: a browser gives the click to nobody if the button was built anew between the
// press and its release, a tenth of a second for a person. What rebuilds parts of a page waits so long.
const PRESSED = 'button, a, input, summary'; // no select: its list takes the release, and it is never built anew
const ENDS = ['pointerup', 'pointercancel', 'contextmenu'];
const LONGEST_MS = 3_000; // a release that is told to nobody must not stop the page
const SETTLE_MS = 500; // within which two clicks are one double click
const offered = new WeakMap(); // of a box with buttons: what each said, and the timer of its rest

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
  // A key that is held presses once, or it would answer what its first press has asked.
  const hold = (event) => {
    if (event.repeat && /^(Enter| )$/.test(event.key) && event.target.closest?.('button')) event.preventDefault();
  };
  function dispose() {
    clearTimeout(late);
    el.removeEventListener('keydown', hold, true);
    el.removeEventListener('pointerdown', begin, true);
    for (const kind of ENDS) removeEventListener(kind, end, true);
    removeEventListener('blur', end);
  }
  el.addEventListener('keydown', hold, true);
  // Captured, since others on the page may keep these events to themselves.
  el.addEventListener('pointerdown', begin, true);
  for (const kind of ENDS) addEventListener(kind, end, true);
  addEventListener('blur', end); // the window's own, and not that of what had the focus
  return press;
}

/**
 * Keep the pointer off the buttons in `box` for a moment when one has come to stand where another was: the second click
 * of a double click, or one that was on its way, was meant for what it does not see any more. `words` say of each place
 * what its button does. One that came where none was moves nobody's.
 */
export function settle(box, words) {
  if (!words.some(Boolean)) return; // with no button between, the next one is compared with the last
  const { words: before = [], timer } = offered.get(box) ?? {};
  const isMoved = words.some((each, place) => each !== (before[place] ?? each));
  if (isMoved) {
    clearTimeout(timer);
    box.classList.add('zb-settling');
  }
  offered.set(box, { words, timer: isMoved ? setTimeout(() => box.classList.remove('zb-settling'), SETTLE_MS) : timer });
}
