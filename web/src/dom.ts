// Making elements. Text is always set as text; HTML comes in through markdown.ts alone.

type Child = Node | string | null | undefined | false;
type Properties = Record<string, unknown>;

/** h("button.primary", { onclick, "aria-label": … }, "Send") */
export function h<K extends keyof HTMLElementTagNameMap>(
  selector: K | `${K}.${string}`,
  properties: Properties = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const [name, ...classes] = selector.split(".");
  const element = document.createElement(name as K);
  if (classes.length) element.className = classes.join(" ");
  set(element, properties);
  element.append(...children.filter((child): child is Node | string => child !== null && child !== undefined && child !== false));
  return element;
}

export function set(element: Element, properties: Properties): void {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on") || name in element) (element as unknown as Properties)[name] = value;
    else if (value === null || value === undefined || value === false) element.removeAttribute(name);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(name: string, attributes: Record<string, string | number> = {}, ...children: Node[]): SVGElement {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.append(...children);
  return element;
}

const ICONS: Record<string, string> = {
  plus: "M12 5v14M5 12h14",
  send: "M12 19V5M5.5 11.5 12 5l6.5 6.5",
  stop: "M7 7h10v10H7z",
  menu: "M4 7h16M4 12h16M4 17h16",
  close: "M6 6l12 12M18 6 6 18",
  settings: "M4 7h9M17 7h3M4 17h3M11 17h9M15 4.8v4.4M9 14.8v4.4",
  copy: "M9 9h10v11H9zM5 15V4h10",
  check: "M5 12.5l4.5 4.5L19 7.5",
  retry: "M19 12a7 7 0 1 1-2.2-5.1M19 4v4h-4",
  edit: "M5 19h3.5L19 8.5 15.5 5 5 15.5zM13.5 7l3.5 3.5",
  branch: "M7 20V4M7 15c0-4 9.5-2.5 9.5-8.5M13 9.5l3.5-3.5L20 9.5",
  raw: "M8 7l-5 5 5 5M16 7l5 5-5 5",
  left: "M14.5 6l-6 6 6 6",
  right: "M9.5 6l6 6-6 6",
  trash: "M5 7h14M10 7V4.5h4V7M7 7l1 12.5h8L17 7",
  python: "M5 8l4 4-4 4M12 17h7",
  web: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16zM4 12h16M12 4c3 3 3 13 0 16M12 4c-3 3-3 13 0 16",
  search: "M11 5a6 6 0 1 0 0 12 6 6 0 0 0 0-12zM15.5 15.5 20 20",
  page: "M7 4h7l4 4v12H7zM14 4v4h4",
  patch: "M12 5v8M8 9h8M8 18h8",
  call: "M9 5c-3 0-2 6-5 7 3 1 2 7 5 7M15 5c3 0 2 6 5 7-3 1-2 7-5 7",
  thought: "M12 5v3M12 16v3M5 12h3M16 12h3M7.3 7.3l2 2M14.7 14.7l2 2M16.7 7.3l-2 2M9.3 14.7l-2 2",
};

export function icon(name: keyof typeof ICONS): SVGElement {
  const path = svg("path", { d: ICONS[name] ?? "" });
  return svg("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true", focusable: "false" }, path);
}

/** A button that shows an icon alone, with its name for those who do not see it. */
export function iconButton(name: string, label: string, onclick: (event: MouseEvent) => void): HTMLButtonElement {
  return h("button.icon-button", { type: "button", title: label, "aria-label": label, onclick }, icon(name));
}

export function copyButton(text: () => string, label = "Copy"): HTMLButtonElement {
  const button = iconButton("copy", label, async () => {
    await navigator.clipboard.writeText(text());
    button.replaceChildren(icon("check"));
    announce("Copied");
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

const status = h("p.visually-hidden", { role: "status" });

/** Say something to those who listen to the page. */
export function announce(text: string): void {
  if (!status.isConnected) document.body.append(status);
  status.textContent = text;
}

export function seconds(value: number): string {
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 60) return `${Math.round(value)} s`;
  return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

export function bytes(value: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export const number = new Intl.NumberFormat("en").format;
