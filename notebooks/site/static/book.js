// A reader who points at an equation's id, or reaches it by keyboard, sees the equation. Without scripts its title remains.
(() => {
  const here = document.currentScript.src;
  let card = null;

  function mathematics() {
    if (window.MathJax && window.MathJax.startup) return window.MathJax.startup.promise;
    return new Promise((done) => {
      window.MathJax = Object.assign(window.MathJax || {}, { startup: { typeset: false } });
      const script = document.createElement("script");
      script.src = new URL("mathjax/tex-svg.js", here);
      script.onload = () => window.MathJax.startup.promise.then(done);
      document.head.append(script);
    });
  }

  function hide() {
    if (card) card.remove();
    card = null;
  }

  function show(link) {
    const id = link.textContent.trim();
    const equation = (window.EQUATIONS || {})[id];
    hide();
    if (!equation) return;
    link.removeAttribute("title");
    const box = document.createElement("div");
    box.className = "equation-card";
    box.setAttribute("role", "tooltip");
    const name = document.createElement("div");
    name.textContent = `${id}: ${equation.name}`;
    const statement = document.createElement("div");
    statement.className = "math";
    box.append(name, statement);
    document.body.append(box);
    card = box;
    const place = () => {
      const at = link.getBoundingClientRect();
      const left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - box.offsetWidth - 8));
      const above = at.top > box.offsetHeight + 12 && at.bottom + box.offsetHeight + 12 > window.innerHeight;
      box.style.left = `${left + window.scrollX}px`;
      box.style.top = `${(above ? at.top - box.offsetHeight - 6 : at.bottom + 6) + window.scrollY}px`;
    };
    place();
    mathematics().then(() => {
      if (card !== box) return;
      statement.textContent = `\\[${equation.statement}\\]`;
      return window.MathJax.typesetPromise([statement]).then(place);
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const link of document.querySelectorAll("a.equation")) {
      link.addEventListener("mouseenter", () => show(link));
      link.addEventListener("focus", () => show(link));
      link.addEventListener("mouseleave", hide);
      link.addEventListener("blur", hide);
    }
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
})();
