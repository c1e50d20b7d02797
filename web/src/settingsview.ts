// The panel of settings: of this conversation, of the server (with its figures), and of the page.

import { api, key, setKey } from "./api";
import type { Chat } from "./chat";
import { Chart } from "./charts";
import { announce, bytes, h, number } from "./dom";
import { changePage, labelOf, pageSettings, parseFunctions, type PageSettings } from "./settings";
import type { Figures, Server, Settings } from "./types";

const EVERY_MS = 1000;
const EXAMPLE = `[
  {
    "name": "get_weather",
    "description": "The weather in a city right now.",
    "parameters": {
      "type": "object",
      "properties": { "city": { "type": "string" } },
      "required": ["city"]
    }
  }
]`;
const PATCHES = `[
  { "type": "apply_patch" }
]`;
const KEYS: [string, string][] = [
  ["Enter", "send"],
  ["Shift Enter", "new line"],
  ["Esc", "stop, or close what is open"],
  ["↑", "edit the last question, in an empty field"],
  ["Ctrl Shift O", "new conversation"],
  ["/", "to the field"],
];

/** The contents, and what to call when they are no longer shown. */
export function settingsView(chat: Chat, server: Server): { content: Node[]; close: () => void } {
  const figures = figuresView(server);
  const pages = {
    Conversation: conversationView(chat, server),
    Server: h("div", {}, facts(server), figures.element),
    Page: pageView(),
  };
  const body = h("div.tab-body", { role: "tabpanel", id: "settings-tab" });
  const tabs = Object.entries(pages).map(([name, content]) => {
    const tab = h("button.tab", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "settings-tab" }, name);
    tab.addEventListener("click", () => choose(tab, content));
    return tab;
  });
  const choose = (chosen: HTMLElement, content: Node) => {
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
    }
    body.setAttribute("aria-labelledby", chosen.id);
    body.replaceChildren(content);
  };
  const list = h("div.tabs", { role: "tablist", "aria-label": "Settings" }, ...tabs);
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const at = tabs.indexOf(document.activeElement as HTMLButtonElement);
    if (!step || at < 0) return;
    const next = tabs[(at + step + tabs.length) % tabs.length]!;
    next.focus();
    next.click();
  });
  choose(tabs[0]!, pages.Conversation);
  return { content: [list, body], close: figures.close };
}

// ---- the conversation -----------------------------------------------------------------------------------------------

function conversationView(chat: Chat, server: Server): HTMLElement {
  const change = (change: Partial<Settings>) => void chat.change(change).catch(() => announce("The settings could not be saved"));
  const instructions = h("textarea", {
    rows: 5,
    value: chat.settings.instructions,
    placeholder: "You are terse. Answer in French.",
    onchange: () => change({ instructions: instructions.value }),
  });
  return h(
    "div.form",
    {},
    field("Instructions", "What the model shall keep to; the system prompt.", instructions),
    functionsField(chat, change),
    ...(server.tools.mcp.length ? [mcpField(chat, server, change)] : []),
    h(
      "fieldset",
      {},
      h("legend", {}, "Sampling"),
      h(
        "div.columns",
        {},
        numberField("Temperature", chat.settings.temperature, "1", { min: 0, max: 2, step: 0.1 }, (temperature) => change({ temperature })),
        numberField("Top p", chat.settings.top_p, "1", { min: 0.01, max: 1, step: 0.01 }, (top_p) => change({ top_p })),
        numberField("Most tokens", chat.settings.max_output_tokens, "no limit", { min: 1, step: 1 }, (max_output_tokens) => change({ max_output_tokens })),
      ),
    ),
  );
}

function functionsField(chat: Chat, change: (change: Partial<Settings>) => void): HTMLElement {
  const problem = h("p.problem", { role: "alert", hidden: true });
  const keep = () => {
    try {
      const count = parseFunctions(area.value).length;
      problem.hidden = true;
      change({ functions: area.value });
      if (count) announce(`${count} functions declared`);
    } catch (error) {
      problem.textContent = (error as Error).message;
      problem.hidden = false;
    }
  };
  const area = h("textarea.mono", { rows: 8, spellcheck: false, value: chat.settings.functions, placeholder: "[]", onchange: keep });
  const example = (label: string, text: string) =>
    h(
      "button.link",
      {
        type: "button",
        onclick: () => {
          area.value = text;
          keep();
        },
      },
      label,
    );
  return h(
    "div",
    {},
    field("Functions", "Tools of yours as JSON, like in the API. When the model calls one, you answer for it.", area),
    problem,
    h("div.row.quiet", {}, "Try ", example("a function", EXAMPLE), " or ", example("patches", PATCHES)),
  );
}

function mcpField(chat: Chat, server: Server, change: (change: Partial<Settings>) => void): HTMLElement {
  const boxes = server.tools.mcp.map((url) => {
    const box = h("input", { type: "checkbox", checked: chat.settings.mcp.includes(url), value: url, onchange: () => change({ mcp: chosen() }) });
    return { box, row: h("label.check", {}, box, h("span", {}, labelOf(url), h("span.quiet", {}, ` ${url}`))) };
  });
  const chosen = () => boxes.filter(({ box }) => box.checked).map(({ box }) => box.value);
  return h("fieldset", {}, h("legend", {}, "MCP servers"), ...boxes.map(({ row }) => row));
}

function field(name: string, hint: string, control: HTMLElement): HTMLElement {
  return h("label.field", {}, h("span.field-name", {}, name), h("span.quiet", {}, hint), control);
}

function numberField(name: string, value: number | null, usual: string, limits: Record<string, number>, keep: (value: number | null) => void): HTMLElement {
  const input = h("input", { type: "number", value: value ?? "", placeholder: usual, ...limits });
  input.addEventListener("change", () => {
    if (!input.reportValidity()) return;
    keep(input.value === "" ? null : input.valueAsNumber);
  });
  return h("label.field", {}, h("span.field-name", {}, name), input);
}

// ---- the server -----------------------------------------------------------------------------------------------------

function facts(server: Server): HTMLElement {
  const shape = server.model.shape;
  const since = new Date(server.started * 1000);
  const rows: [string, string][] = [
    ["Model", server.model.id],
    ...(shape
      ? [["Network", `${shape["num_hidden_layers"]} layers, ${shape["num_experts"]} experts of which ${shape["experts_per_token"]} are used`] as [string, string]]
      : []),
    ["Backend", server.backend],
    ["Context", `${number(server.context_tokens)} tokens`],
    ["Processor", `${server.machine.processor}, ${server.machine.cores} cores`],
    ["Tools", [server.tools.code_interpreter && "Python", server.tools.web_search && "Web", ...server.tools.mcp.map(labelOf)].filter(Boolean).join(", ") || "none"],
    ["Keeps", server.stores ? "conversations, in its database" : "nothing"],
    ["Version", `gpt-oss ${server.version}`],
    ["Running since", since.toLocaleString()],
  ];
  return h("dl.facts", {}, ...rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function figuresView(server: Server): { element: HTMLElement; close: () => void } {
  const rate = (value: number) => number(Math.round(value * 10) / 10);
  const charts = {
    output: new Chart("Tokens out, a second", rate),
    prompt: new Chart("Tokens in, a second", rate),
    running: new Chart("Answers under way", number),
    waiting: new Chart("Answers waiting", number),
    memory: new Chart("Memory of the server", bytes, server.now.memory.total_bytes),
    cache: server.now.cache && new Chart("Context cache in use", (share) => `${Math.round(100 * share)} %`, 1),
    gpu: server.now.memory.gpu && new Chart("GPU memory in use", bytes, server.now.memory.gpu.total_bytes),
  };
  const element = h("div.charts", { role: "group", "aria-label": "Figures" }, ...Object.values(charts).flatMap((chart) => chart?.element ?? []));
  let before: Figures | null = null;
  const show = (now: Figures) => {
    const then = before ?? now;
    before = now;
    const passed = Math.max(now.time - then.time, 0.001);
    charts.output.add((now.output_tokens - then.output_tokens) / passed);
    charts.prompt.add((now.prompt_tokens - then.prompt_tokens) / passed);
    charts.running.add(now.running);
    charts.waiting.add(now.waiting);
    if (now.memory.process_bytes !== null) charts.memory.add(now.memory.process_bytes);
    if (now.cache) charts.cache?.add(now.cache.used_tokens / Math.max(now.cache.total_tokens, 1));
    if (now.memory.gpu) charts.gpu?.add(now.memory.gpu.total_bytes - now.memory.gpu.free_bytes);
  };
  const timer = setInterval(() => {
    if (!document.hidden) api.server().then((fresh) => show(fresh.now), () => undefined);
  }, EVERY_MS);
  api.server().then((fresh) => show(fresh.now), () => undefined);
  return { element, close: () => clearInterval(timer) };
}

// ---- the page -------------------------------------------------------------------------------------------------------

function pageView(): HTMLElement {
  const kept = pageSettings();
  const themes: [PageSettings["theme"], string][] = [["auto", "As the system"], ["light", "Light"], ["dark", "Dark"]];
  const choice = themes.map(([value, name]) =>
    h("label.check", {}, h("input", { type: "radio", name: "theme", value, checked: kept.theme === value, onchange: () => changePage({ theme: value }) }), name),
  );
  const probabilities = h("input", {
    type: "checkbox",
    checked: kept.probabilities,
    onchange: () => changePage({ probabilities: probabilities.checked }),
  });
  const secret = h("input", { type: "password", autocomplete: "off", value: key(), placeholder: "none" });
  const remember = h("input", { type: "checkbox", checked: localStorage.getItem("gpt-oss.key") !== null });
  const keep = () => setKey(secret.value.trim(), remember.checked);
  secret.addEventListener("change", keep);
  remember.addEventListener("change", keep);
  return h(
    "div.form",
    {},
    h("fieldset", {}, h("legend", {}, "Colours"), h("div.row", {}, ...choice)),
    h(
      "fieldset",
      {},
      h("legend", {}, "Tokens"),
      h("label.check", {}, probabilities, h("span", {}, "Ask for probabilities", h("span.quiet", {}, " of every token, for the view of tokens; a little slower"))),
    ),
    h("fieldset", {}, h("legend", {}, "API key"), secret.parentElement ?? h("label.field", {}, h("span.quiet", {}, "Where the server asks for one."), secret), h("label.check", {}, remember, "Remember it in this browser")),
    h("fieldset", {}, h("legend", {}, "Keys"), h("dl.facts.keys", {}, ...KEYS.flatMap(([name, does]) => [h("dt", {}, ...name.split(" ").map((each) => h("kbd", {}, each))), h("dd", {}, does)]))),
    h("p.quiet", {}, h("a", { href: "/docs", target: "_blank", rel: "noopener" }, "API reference"), " · ", h("a", { href: "/page/licences.txt", target: "_blank", rel: "noopener" }, "licences")),
  );
}
