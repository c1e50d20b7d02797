// What the browser tool showed, read back out of its text: numbered lines under a head, and the links of a search.

import type { Answer, Item } from "./types";

export interface Link {
  title: string;
  domain: string;
}

export interface Page {
  cursor: number;
  title: string;
  url: string;
  lines: { number: number; text: string }[];
  links: Link[];
}

const HEAD = /^\[(\d+)\] (.*?)(?: \((\S+)\))?$/;
const LINE = /^L(\d+): ?(.*)$/;
const LINK = /【(\d+)†([^†】]*)(?:†([^†】]*))?】/g;

export function pageOf(item: Item): Page | null {
  const [head, ...rest] = (item.results?.[0]?.text ?? "").split("\n");
  const found = HEAD.exec(head ?? "");
  if (!found) return null;
  const lines = rest.flatMap((line) => {
    const parts = LINE.exec(line);
    return parts ? [{ number: Number(parts[1]), text: parts[2]! }] : [];
  });
  const text = lines.map((line) => line.text).join(" ");
  const links = [...text.matchAll(LINK)].map((link) => ({ title: link[2]!.trim(), domain: link[3] ?? "" }));
  return { cursor: Number(found[1]), title: found[2]!, url: found[3] ?? "", lines, links };
}

/** The pages that an answer has seen, by their cursors. */
export function pagesOf(answer: Answer): Map<number, Page> {
  const pages = answer.output.flatMap((item) => (item.type === "web_search_call" ? (pageOf(item) ?? []) : []));
  return new Map(pages.map((page) => [page.cursor, page]));
}

/** A line without the marks of its links, which may reach over its end. */
export function plain(text: string): string {
  return text
    .replace(LINK, "$2")
    .replace(/【\d+†([^†】]*)$/, "$1")
    .replace(/^([^【】]*?)(?:†[^†【】]*)?】/, "$1");
}

/** The address, if it is one that a browser can open. */
export function openable(url: string): string | null {
  return /^https?:\/\//i.test(url) ? url : null;
}
