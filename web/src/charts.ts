// Small live charts: a line over the last minutes, its name and its latest value.

import { h, svg } from "./dom";

const WIDTH = 120;
const HEIGHT = 32;
const POINTS = 60;
const FEW = 15; // as many fill the width

export class Chart {
  readonly element: HTMLElement;
  private readonly value = h("b.chart-value", {}, "–");
  private readonly line = svg("path", { class: "line", "vector-effect": "non-scaling-stroke" });
  private readonly area = svg("path", { class: "area" });
  private readonly points: number[] = [];

  /** most: what the top stands for; without, the highest value that is shown. */
  constructor(
    name: string,
    private readonly format: (value: number) => string,
    private readonly most: number | null = null,
  ) {
    const picture = svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      this.area,
      this.line,
    );
    this.element = h("div.chart", {}, h("div.chart-head", {}, h("span", {}, name), this.value), picture as unknown as HTMLElement);
  }

  add(value: number): void {
    this.points.push(value);
    if (this.points.length > POINTS) this.points.shift();
    this.value.textContent = this.format(value);
    const most = this.most ?? Math.max(...this.points, 1e-9);
    const step = WIDTH / Math.max(this.points.length - 1, FEW);
    const place = (each: number, index: number) => {
      const x = WIDTH - (this.points.length - 1 - index) * step;
      const y = HEIGHT - 1.5 - (Math.min(each / most, 1) * (HEIGHT - 4));
      return `${x.toFixed(1)} ${y.toFixed(1)}`;
    };
    const line = this.points.map(place).join("L");
    const start = WIDTH - (this.points.length - 1) * step;
    this.line.setAttribute("d", `M${line}`);
    this.area.setAttribute("d", `M${start} ${HEIGHT}L${line}L${WIDTH} ${HEIGHT}Z`);
  }
}
