// Tells when a socket has fallen silent, which a browser does not: the server sends something at least every 15 s.
const QUIET_MS = 40_000;
const LOOK_MS = 5_000;

/** Watch a socket: `silent` is called, once, when nothing has come for too long. */
export function pulse(silent) {
  const watched = {
    at: Date.now(), // when something was heard last
    beat: () => (watched.at = Date.now()),
    stop: () => clearInterval(timer),
  };
  const timer = setInterval(() => {
    if (Date.now() - watched.at < QUIET_MS) return;
    watched.stop();
    silent();
  }, LOOK_MS);
  return watched;
}
