/** Files that go out (pictures, labels) and come in (labels, graphs). */

import { element } from "./dom";
import { CanvasSurface, SvgSurface, type Surface } from "./surface";

export interface Picture {
  width: number;
  height: number;
  draw(surface: Surface): void;
}

const SHARPER = 2; // pixels of a PNG per pixel on the screen

export function saveSvg(name: string, picture: Picture): void {
  const surface = new SvgSurface(picture.width, picture.height);
  picture.draw(surface);
  save(`${name}.svg`, new Blob([surface.toString()], { type: "image/svg+xml" }));
}

export function savePng(name: string, picture: Picture): void {
  const canvas = element("canvas", { width: picture.width * SHARPER, height: picture.height * SHARPER });
  const context = canvas.getContext("2d")!;
  context.scale(SHARPER, SHARPER);
  picture.draw(new CanvasSurface(context));
  canvas.toBlob((blob) => blob && save(`${name}.png`, blob), "image/png");
}

export function saveJson(name: string, value: unknown): void {
  save(`${name}.json`, new Blob([`${JSON.stringify(value, null, 2)}\n`], { type: "application/json" }));
}

/** Ask for a file and give it to `use`. */
export function pick(accept: string, use: (file: File) => void): void {
  const input = element("input", { type: "file", accept });
  input.addEventListener("change", () => {
    const file = input.files?.[0];
    if (file) use(file);
  });
  input.click();
}

export function save(name: string, blob: Blob): void {
  const address = URL.createObjectURL(blob);
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
