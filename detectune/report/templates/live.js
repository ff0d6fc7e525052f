// A page that `detectune watch` serves asks for itself again and takes over the parts that changed; what the viewer has
// opened, chosen and scrolled to stays.
function takeParts(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const known = [...document.querySelectorAll("[data-part]")].map((part) => part.dataset.part).join();
  const found = [...fresh.querySelectorAll("[data-part]")].map((part) => part.dataset.part).join();
  if (known !== found) { // another structure, for example the first trial of a study
    location.reload();
    return;
  }
  for (const part of document.querySelectorAll("[data-part]")) {
    const now = fresh.querySelector(`[data-part="${part.dataset.part}"]`);
    if (part.innerHTML === now.innerHTML) continue;
    const open = new Set([...part.querySelectorAll("details[open] > summary")].map((summary) => summary.textContent));
    part.replaceChildren(...now.childNodes);
    for (const summary of part.querySelectorAll("details > summary")) summary.parentNode.open = open.has(summary.textContent);
  }
  document.dispatchEvent(new Event("parts"));
}

async function follow() {
  let tag = null;
  for (;;) {
    await new Promise((resume) => { setTimeout(resume, 1500); });
    try {
      const answer = await fetch(location.pathname, { headers: tag ? { "If-None-Match": tag } : {} });
      document.body.classList.toggle("lost", !answer.ok && answer.status !== 304);
      if (answer.status !== 200) continue;
      tag = answer.headers.get("ETag");
      takeParts(await answer.text());
    } catch { // the server has gone; the page stays readable and goes on when it comes back
      document.body.classList.add("lost");
    }
  }
}

if (document.body.hasAttribute("data-live")) follow();
