// Where in the console one is: `#/page/argument`, so that the gateway serves one page for all of them.

import { useLayoutEffect, useState } from "preact/hooks";

export interface Route {
  page: string;
  argument: string;
}

export function parse(hash: string): Route {
  const [page = "", ...rest] = hash.replace(/^#\/?/, "").split("/");
  let argument = rest.join("/");
  try {
    argument = decodeURIComponent(argument);
  } catch {
    // a stray percent sign is shown as it is
  }
  return { page: page || "models", argument };
}

export const href = (page: string, argument = ""): string =>
  argument ? `#/${page}/${encodeURIComponent(argument)}` : `#/${page}`;

export function go(page: string, argument = ""): void {
  window.location.hash = href(page, argument);
}

export function useRoute(): Route {
  const [route, setRoute] = useState(() => parse(window.location.hash));
  // Heard from the moment of drawing on: a change before the next frame would else be missed.
  useLayoutEffect(() => {
    const changed = () => setRoute(parse(window.location.hash));
    window.addEventListener("hashchange", changed);
    return () => window.removeEventListener("hashchange", changed);
  }, []);
  return route;
}
