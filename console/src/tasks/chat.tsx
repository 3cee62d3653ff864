// A chat: each turn is one paid request with the whole conversation, streamed, and may be stopped.

import type { JSX } from "preact";
import { useMemo, useRef, useState } from "preact/hooks";
import type { Model, Status } from "../api.ts";
import { money, plural } from "../format.ts";
import { means } from "../pay/means.ts";
import { asTensors, chat, type Message, type Reply, type Wishes } from "../pay/chat.ts";
import { PayCard } from "../pay/PayCard.tsx";
import { useSignal } from "../pay/signal.ts";
import { Card, Failure } from "../ui/parts.tsx";
import { Asked, PaperCard, Snippets, usePrice } from "./paid.tsx";
import { chatCalls } from "./snippets.ts";
import { Unready } from "./tasks.ts";

const MOST_TOKENS = 128;
const WHO = { user: "You", assistant: "Model", system: "System" };

export function ChatBench({ model, status }: { model: Model; status: Status }): JSX.Element {
  useSignal("channel");
  const limit = Number(model.options?.max_output_tokens ?? MOST_TOKENS);
  const [said, setSaid] = useState<Message[]>([]);
  const [typed, setTyped] = useState("Tell me about cats.");
  const [wishes, setWishes] = useState<Wishes>({ maxTokens: Math.min(MOST_TOKENS, limit), temperature: 0.7 });
  const [growing, setGrowing] = useState<string>();
  const [reply, setReply] = useState<Reply>();
  const [error, setError] = useState<Error>();
  const stop = useRef<AbortController | undefined>(undefined);
  const field = useRef<HTMLTextAreaElement>(null);
  const messages = useMemo<Message[]>(() => [...said, { role: "user", content: typed.trim() }], [said, typed]);
  const request = useMemo(() => ({ messages, wishes }), [messages, wishes]);
  const { tensors, parameters } = asTensors(messages, wishes);
  const needed = () => {
    if (typed.trim() === "") throw new Unready("Type a message.");
    return tensors;
  };
  const asked = usePrice(model, request, needed, parameters);
  // With nothing typed, the call that was made last.
  const shown = typed.trim() || said.length === 0 ? messages : said.at(-1)!.role === "user" ? said : said.slice(0, -1);
  const pays = means(status);
  const running = growing !== undefined;
  const send = async (event: Event) => {
    event.preventDefault();
    if (asked.price === undefined || !pays || running) return;
    const sent = messages;
    stop.current = new AbortController();
    setError(undefined);
    setReply(undefined);
    setSaid(sent);
    setTyped("");
    setGrowing("");
    try {
      const found = await chat(status, model, sent, wishes, asked.price, stop.current.signal, setGrowing);
      setReply(found);
      setSaid([...sent, { role: "assistant", content: found.text }]);
    } catch (failed) {
      setError(failed as Error);
      setSaid(sent.slice(0, -1));
      setTyped(sent.at(-1)!.content);
    }
    setGrowing(undefined);
    field.current?.focus();
  };
  const startOver = () => {
    setSaid([]);
    setReply(undefined);
    setError(undefined);
    field.current?.focus();
  };
  return (
    <div class="bench">
      <div>
        <Card title="Chat">
          <ol class="said" aria-label="Conversation" aria-live="polite">
            {said.map((message, index) => (
              <Said key={index} message={message} />
            ))}
            {running && <Said message={{ role: "assistant", content: growing }} busy />}
          </ol>
          <form onSubmit={send}>
            <div class="field">
              <label for="message">Message</label>
              <textarea
                id="message"
                ref={field}
                rows={3}
                value={typed}
                onInput={(event) => setTyped(event.currentTarget.value)}
                onKeyDown={(event) => {
                  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) void send(event);
                }}
              />
            </div>
            <div class="wishes">
              <div class="field">
                <label for="tokens">Tokens at most</label>
                <input
                  id="tokens"
                  type="number"
                  min={1}
                  max={limit}
                  value={wishes.maxTokens}
                  onInput={(event) => {
                    const tokens = Math.round(event.currentTarget.valueAsNumber);
                    if (tokens >= 1) setWishes({ ...wishes, maxTokens: Math.min(tokens, limit) });
                  }}
                />
              </div>
              <div class="field">
                <label for="temperature">Temperature</label>
                <input
                  id="temperature"
                  type="number"
                  min={0}
                  max={2}
                  step={0.1}
                  value={wishes.temperature}
                  onInput={(event) => {
                    const temperature = event.currentTarget.valueAsNumber;
                    if (temperature >= 0 && temperature <= 2) setWishes({ ...wishes, temperature });
                  }}
                />
              </div>
            </div>
            <div class="row apart">
              <Asked model={model} {...asked} />
              {running ? (
                <button type="button" class="second" onClick={() => stop.current?.abort()}>
                  Stop
                </button>
              ) : (
                <span class="row">
                  {said.length > 0 && (
                    <button type="button" class="second" onClick={startOver}>
                      Start over
                    </button>
                  )}
                  <button type="submit" title="Ctrl+Enter" disabled={asked.price === undefined || !pays}>
                    {asked.price === undefined ? "Send" : `Send for at most ${money(asked.price)}`}
                  </button>
                </span>
              )}
            </div>
            {!pays && <p class="quiet">Open a channel, or give an API key, to send it.</p>}
          </form>
        </Card>
        <div aria-live="polite">
          {error && <Failure error={error} />}
          {reply && (
            <>
              {reply.tokens && (
                <p class="quiet">
                  {plural(reply.tokens.prompt, "token")} read, {plural(reply.tokens.completion, "token")} written, ended by{" "}
                  {reply.finish}.
                </p>
              )}
              <PaperCard paid={reply} />
            </>
          )}
        </div>
      </div>
      <div>
        <PayCard status={status} />
        <Snippets calls={chatCalls(model, shown, wishes, window.location.origin, pays?.key ? "key" : "voucher")} />
      </div>
    </div>
  );
}

function Said({ message, busy = false }: { message: Message; busy?: boolean }): JSX.Element {
  return (
    <li class={message.role} aria-busy={busy}>
      <span class="who">{WHO[message.role]}</span>
      <p>
        {message.content}
        {busy && <span class="caret" aria-hidden="true" />}
      </p>
    </li>
  );
}
