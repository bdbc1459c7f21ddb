// Films play while they are in view, unless the reader asked for less motion or paused them.
(() => {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches || !("IntersectionObserver" in window)) return;
  const paused = new WeakSet(), leaving = new WeakSet();
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !paused.has(target)) target.play().catch(() => {});
      else if (!isIntersecting && !target.paused) { leaving.add(target); target.pause(); }
    }
  }, { threshold: 0.4 });
  for (const film of document.querySelectorAll("video")) {
    film.addEventListener("pause", () => { leaving.has(film) ? leaving.delete(film) : paused.add(film); });
    film.addEventListener("play", () => paused.delete(film));
    watcher.observe(film);
  }
})();
