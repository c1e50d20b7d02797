// Patches in colours: the patch language of the models' training, and unified diffs.

import { h } from "./dom";

const BEGIN = "*** Begin Patch";

/** The patch in a call's content: as it is, or a string or a field of its JSON; null where there is none. */
export function patchIn(content: string): string | null {
  if (content.trimStart().startsWith(BEGIN)) return content;
  try {
    const given: unknown = JSON.parse(content);
    const texts = typeof given === "string" ? [given] : Object.values(given ?? {});
    return texts.find((text): text is string => typeof text === "string" && text.trimStart().startsWith(BEGIN)) ?? null;
  } catch {
    return null; // not whole yet, or no JSON
  }
}

const FILE = /^\*\*\* (Add|Delete|Update) File: (.*)$/;

/** The lines of a patch; `path` for one that does not name its file. */
export function diffView(patch: string, path?: string): HTMLElement {
  const view = h("div.diff", { tabIndex: 0, role: "group", "aria-label": "Changes" });
  if (path) view.append(h("div.diff-file", {}, path));
  for (const line of patch.replace(/\n$/, "").split("\n")) {
    const file = FILE.exec(line);
    const move = /^\*\*\* Move to: (.*)$/.exec(line);
    if (file) view.append(h("div.diff-file", {}, h("span.badge", {}, file[1]!), file[2]!));
    else if (move) view.append(h("div.diff-file", {}, h("span.badge", {}, "Move to"), move[1]!));
    else if (line.startsWith("***") || line.startsWith("---") || line.startsWith("+++")) continue;
    else view.append(h(`div.diff-line${kindOf(line)}` as "div.diff-line", {}, line || " "));
  }
  return view;
}

function kindOf(line: string): string {
  return { "+": ".added", "-": ".removed", "@": ".place" }[line[0] ?? ""] ?? "";
}

/** What a patch changes, in a few words. */
export function patchSummary(patch: string, path?: string): string {
  const files = path ? [path] : patch.split("\n").flatMap((line) => FILE.exec(line)?.[2] ?? []);
  const count = (sign: string) => patch.split("\n").filter((line) => line.startsWith(sign) && !line.startsWith(sign.repeat(3))).length;
  return `${files.join(", ") || "patch"}  +${count("+")} −${count("-")}`;
}
