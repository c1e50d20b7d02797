"""/docs: every route of the OpenAPI document, to read and to try. One page without anything from elsewhere, for servers
that have no way out."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>gpt-oss: the API</title>
<style>
  :root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
  body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
  details { border-bottom: 1px solid #8884; padding: .4rem 0 } summary { cursor: pointer }
  code, pre, textarea, input { font: 13px/1.5 ui-monospace, monospace }
  b { display: inline-block; min-width: 4.5rem } textarea { width: 100%; height: 8rem; box-sizing: border-box }
  pre { overflow: auto; max-height: 24rem; background: #8881; padding: .6rem } small { opacity: .7 }
</style>
<h1>The API</h1>
<p>Every route, to try. <a href="openapi.json">openapi.json</a> says the same to programs.
<label>Key, where one is needed: <input id="key" type="password" autocomplete="off"></label></p>
<main></main>
<script type="module">
const make = (tag, text = "", fields = {}) => Object.assign(document.createElement(tag), { textContent: text }, fields);
const SAMPLES = { input: "Hello!", prompt: "Hello", messages: [{ role: "user", content: "Hello!" }], max_tokens: 100 };
const NEEDS_LIMIT = ["/v1/messages", "/v1/completions"];

function sample(path, schema) {
  const fields = schema.properties ?? {};
  const wanted = ["model", "messages", "input", "prompt"].filter((name) => name in fields);
  if (NEEDS_LIMIT.includes(path)) wanted.push("max_tokens");
  if (path.startsWith("/api/generate")) wanted.splice(wanted.indexOf("messages"), 1);
  return Object.fromEntries(wanted.map((name) => [name, SAMPLES[name] ?? "gpt-oss"]));
}

async function send(method, path, body, out) {
  const key = document.querySelector("#key").value;
  const type = body && { "Content-Type": "application/json" };
  const headers = { ...type, ...(key && { Authorization: `Bearer ${key}` }) };
  out.textContent = "";
  try {
    const answer = await fetch(path, { method, headers, body });
    out.textContent = `${answer.status} ${answer.statusText}\\n`;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part; !(part = await reader.read()).done;) out.textContent += part.value;
  } catch (error) { out.textContent += error }
}

function operation(path, method, { summary, description, parameters = [], requestBody }) {
  const details = make("details"), head = make("summary"), out = make("pre");
  head.append(make("b", method.toUpperCase()), make("code", path), " ", make("small", description ?? summary ?? ""));
  details.append(head);
  const inputs = parameters.map(({ name, in: where, required }) => {
    const input = make("input", "", { placeholder: required ? "needed" : "" });
    details.append(make("p", `${name} `)); details.lastChild.append(input);
    return { name, where, input };
  });
  const schema = requestBody?.content?.["application/json"]?.schema;
  const area = schema && make("textarea", JSON.stringify(sample(path, schema), null, 2), { spellcheck: false });
  const fields = Object.keys(schema?.properties ?? {}).join(", ");
  if (area) details.append(area, make("small", `Fields: ${fields}`), make("br"));
  const button = make("button", "Send");
  button.onclick = () => {
    let to = path, query = new URLSearchParams();
    for (const { name, where, input } of inputs) {
      if (where === "path") to = to.replace(`{${name}}`, encodeURIComponent(input.value));
      else if (input.value) query.set(name, input.value);
    }
    send(method.toUpperCase(), to + (query.size ? `?${query}` : ""), area?.value, out);
  };
  details.append(button, out);
  return details;
}

const { paths } = await (await fetch("openapi.json")).json();
for (const [path, methods] of Object.entries(paths)) {
  const operations = Object.entries(methods).map(([method, about]) => operation(path, method, about));
  document.querySelector("main").append(...operations);
}
</script>
</html>
"""


@router.get("/docs")
async def docs() -> HTMLResponse:
    return HTMLResponse(PAGE, headers={"X-Frame-Options": "DENY", "Content-Security-Policy": "frame-ancestors 'none'"})
