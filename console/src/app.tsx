import type { ComponentType, JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Unreachable, useRead, type Status } from "./api.ts";
import { short } from "./format.ts";
import { href, useRoute } from "./route.ts";
import { applyTheme, storedTheme, type Theme } from "./theme.ts";
import { Failure, Loading } from "./ui/parts.tsx";

export interface PageProps {
  argument: string;
  status: Status | undefined;
}

type Page = ComponentType<PageProps>;

const PAGES: Record<string, { title: string; load: () => Promise<Page> }> = {
  models: { title: "Models", load: async () => (await import("./pages/models.tsx")).Models },
  playground: { title: "Playground", load: async () => (await import("./pages/playground.tsx")).Playground },
  receipts: { title: "Receipts", load: async () => (await import("./pages/receipts.tsx")).Receipts },
  operators: { title: "Operators", load: async () => (await import("./pages/operators.tsx")).Operators },
  owners: { title: "Owners", load: async () => (await import("./pages/owners.tsx")).Owners },
  settlement: { title: "Settlement", load: async () => (await import("./pages/settlement.tsx")).SettlementPage },
};

export function App(): JSX.Element {
  const route = useRoute();
  const status = useRead<Status>("/market/v1/status", 15_000);
  const main = useRef<HTMLElement>(null);
  const arrived = useRef(false);
  const known = PAGES[route.page];
  const [shown, setShown] = useState<{ name: string; Page: Page } | Error>();

  useEffect(() => {
    let left = false;
    if (!known) return undefined;
    known.load().then(
      (Page) => left || setShown({ name: route.page, Page }),
      () => left || setShown(new Unreachable()),
    );
    return () => {
      left = true;
    };
  }, [route.page]);

  useEffect(() => {
    document.title = `${route.argument ? `${short(route.argument)} · ` : ""}${known?.title ?? "Not found"} · Inference market`;
    document.querySelector('nav [aria-current]')?.scrollIntoView({ block: "nearest", inline: "center" });
    if (arrived.current) {
      main.current?.focus({ preventScroll: true });
      window.scrollTo(0, 0);
    }
    arrived.current = true;
  }, [route.page, route.argument]);

  let body: JSX.Element;
  if (!known) body = <Missing />;
  else if (shown instanceof Error) body = <Failure error={shown} />;
  else if (shown?.name === route.page) body = <shown.Page argument={route.argument} status={status.data} />;
  else body = <Loading />;

  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), main.current?.focus())}>
        Skip to content
      </a>
      <header class="top">
        <div class="top-in">
          <a class="brand" href={href("models")}>
            <Mark />
            <span>Inference market</span>
          </a>
          <nav aria-label="Pages">
            {Object.entries(PAGES).map(([name, page]) => (
              <a key={name} href={href(name)} aria-current={name === route.page ? "page" : undefined}>
                {page.title}
              </a>
            ))}
          </nav>
          <ThemeSwitch />
        </div>
      </header>
      <main id="main" ref={main} tabIndex={-1}>
        {status.error && !status.data && <Failure error={status.error} />}
        {status.error && status.data && (
          <div class="notice warn" role="alert">
            <p>{status.error.message} What is shown may be from before.</p>
          </div>
        )}
        {body}
      </main>
      <footer class="foot">
        {status.data ? (
          <p>
            Gateway <span class="mono">{short(status.data.gateway)}</span> on chain {status.data.chainId}, block{" "}
            {status.data.indexedBlock.toLocaleString("en")} · version {status.data.version} ·{" "}
            <a href="/openapi.json">OpenAPI</a>
          </p>
        ) : (
          <p>Reading the gateway's status …</p>
        )}
      </footer>
    </>
  );
}

function Missing(): JSX.Element {
  return (
    <>
      <h1>There is no such page</h1>
      <p>
        <a href={href("models")}>All models</a>
      </p>
    </>
  );
}

function Mark(): JSX.Element {
  return (
    <svg viewBox="0 0 32 32" width="28" height="28" aria-hidden="true">
      <rect width="32" height="32" rx="8" class="mark-ground" />
      <path d="M8 21.5 13 14l5 4.5L24 9" class="mark-line" />
      <circle cx="24" cy="9" r="2.6" class="mark-dot" />
      <path d="M8 25h16" class="mark-base" />
    </svg>
  );
}

function ThemeSwitch(): JSX.Element {
  const [theme, setTheme] = useState<Theme>(storedTheme);
  const choose = (event: { currentTarget: HTMLSelectElement }) => {
    const chosen = event.currentTarget.value as Theme;
    applyTheme(chosen);
    setTheme(chosen);
  };
  return (
    <label class="theme">
      <span class="hidden">Colours</span>
      <select value={theme} onChange={choose}>
        <option value="system">System</option>
        <option value="light">Light</option>
        <option value="dark">Dark</option>
      </select>
    </label>
  );
}
