/** Files that go out (pictures, labels) and come in (labels, graphs). */

import { element } from "./dom";
import { CanvasSurface, SvgSurface, type Surface } from "./surface";

export interface Picture {
  width: number;
  height: number;
  draw(surface: Surface): void;
}

const SHARPER = 2; // pixels of a PNG per pixel on the screen
const MOST_PIXELS = 1.6e8; // of a canvas: fewer per pixel on the screen where it would have more than these,
const LONGEST_SIDE = 32_000; // or a longer side: Chromium gives 16,384² and 65,535, Firefox 32,767, and nothing beyond

/** Pixels of a canvas per pixel on the screen: as many as are wanted, or as a browser can give one of this size. */
export function scaleFor({ width, height }: { width: number; height: number }, wanted: number): number {
  return Math.min(wanted, Math.sqrt(MOST_PIXELS / (width * height || 1)), LONGEST_SIDE / Math.max(width, height, 1));
}

export function saveSvg(name: string, picture: Picture): void {
  const surface = new SvgSurface(picture.width, picture.height);
  picture.draw(surface);
  save(`${name}.svg`, new Blob([surface.toString()], { type: "image/svg+xml" }));
}

/** Save a picture as PNG; where the browser cannot make one, `failed` hears what else to do. */
export function savePng(name: string, picture: Picture, failed: (words: string) => void): void {
  const { width, height } = picture;
  const scale = scaleFor(picture, SHARPER);
  const canvas = element("canvas", { width: Math.floor(width * scale), height: Math.floor(height * scale) });
  const context = canvas.getContext("2d")!;
  context.scale(scale, scale);
  picture.draw(new CanvasSurface(context));
  canvas.toBlob((blob) => {
    if (blob) save(`${name}.png`, blob);
    else failed("The browser can make no PNG of this size: save it as SVG, or zoom out.");
  }, "image/png");
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
