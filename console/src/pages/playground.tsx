import type { JSX } from "preact";
import type { PageProps } from "../app.tsx";
import { Heading } from "../ui/parts.tsx";

export function Playground(_: PageProps): JSX.Element {
  return <Heading title="Playground">Soon.</Heading>;
}
