// The card that says what pays: the wallet connected, the channel opened, what is left in it, how it comes back.

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { useRead, type Channel as ChannelState, type Status } from "../api.ts";
import { atomic, money, short, time } from "../format.ts";
import { href } from "../route.ts";
import { Card, Details, Failure } from "../ui/parts.tsx";
import { draw, forget, free, keptChannel, open, startExit, takeBack, topUp, type Kept, type Tell } from "./channel.ts";
import { dropKey, keyFacts, useKey, usedKey, type KeyFacts, type UsedKey } from "./means.ts";
import { listen, useSignal } from "./signal.ts";
import { connect, disconnect, said, wallet, wallets } from "./wallet.ts";

export function PayCard({ status }: { status: Status }): JSX.Element {
  useSignal("wallet");
  useSignal("channel");
  const [step, setStep] = useState("");
  const [error, setError] = useState<Error>();
  const kept = keptChannel(status);
  const key = usedKey();
  /** Runs what takes a while, with its steps told. */
  const run = async (work: (tell: Tell) => Promise<unknown>) => {
    setError(undefined);
    setStep("Asking the wallet …");
    try {
      await work(setStep);
    } catch (failed) {
      setError(said(failed));
    }
    setStep("");
  };
  return (
    <Card title="Pay with">
      {key ? <KeyBox used={key} /> : <Connection status={status} run={run} busy={step !== ""} />}
      {key ? null : kept ? (
        <ChannelBox key={kept.id} status={status} kept={kept} run={run} busy={step !== ""} />
      ) : (
        wallet() && <OpenForm status={status} run={run} busy={step !== ""} />
      )}
      {!key && <KeyForm run={run} busy={step !== ""} />}
      <p role="status" class="quiet step">
        {step}
      </p>
      {error && <Failure error={error} />}
    </Card>
  );
}

interface Acting {
  status: Status;
  run: (work: (tell: Tell) => Promise<unknown>) => Promise<void>;
  busy: boolean;
}

function Connection({ status, run, busy }: Acting): JSX.Element {
  const connected = wallet();
  if (connected) {
    return (
      <p class="row apart">
        <span>
          Wallet <span class="mono">{short(connected.address)}</span>
        </span>
        <button type="button" class="small" onClick={disconnect}>
          Disconnect
        </button>
      </p>
    );
  }
  const found = wallets();
  if (found.length === 0) {
    return <p class="quiet">No browser wallet (EIP-1193) was found here. An API key pays without one, as do the SDK and the command line.</p>;
  }
  return (
    <p class="row">
      {found.map(({ id, name }) => (
        <button key={id} type="button" class="second" disabled={busy} onClick={() => run(() => connect(id, status.chainId))}>
          Connect {name}
        </button>
      ))}
    </p>
  );
}

function KeyForm({ run, busy }: Omit<Acting, "status">): JSX.Element {
  const [typed, setTyped] = useState("");
  return (
    <details class="after">
      <summary>Pay by an API key instead</summary>
      <form
        class="lookup after"
        onSubmit={(event) => {
          event.preventDefault();
          void run((tell) => (tell("Asking what the key may do …"), useKey(typed.trim())));
        }}
      >
        <div class="field">
          <label for="key">API key</label>
          <input
            id="key"
            type="password"
            autocomplete="off"
            placeholder="mk_…"
            value={typed}
            onInput={(event) => setTyped(event.currentTarget.value)}
          />
        </div>
        <button type="submit" disabled={busy || typed.trim() === ""}>
          Use it
        </button>
        <p class="hint">Kept in this tab until it is closed. Made with: market keys create --limit 1.00</p>
      </form>
    </details>
  );
}

function KeyBox({ used }: { used: UsedKey }): JSX.Element {
  const [facts, setFacts] = useState<KeyFacts | Error>();
  const look = () => void keyFacts(used.secret).then(setFacts, setFacts);
  useEffect(() => {
    look();
    // The gateway's processes tell each other of a key's spending within a second or so.
    const timer = window.setInterval(look, 3_000);
    return () => window.clearInterval(timer);
  }, [used.secret]);
  return (
    <>
      {facts instanceof Error && <Failure error={facts} />}
      {facts && !(facts instanceof Error) && (
        <Details
          rows={[
            ["API key", facts.name || short(facts.keyHash)],
            ["Left to spend", <strong key="l">{money(BigInt(facts.spendingLimit) - BigInt(facts.spent))}</strong>],
            ["Spent", money(facts.spent)],
            ["Models", facts.models.length ? facts.models.join(", ") : "all"],
            ["Until", facts.expiresAt ? time(facts.expiresAt) : "it is revoked"],
            ["Channel", <a key="c" class="mono" href={href("receipts", facts.channelId)}>{short(facts.channelId)}</a>],
          ]}
        />
      )}
      <p class="after">
        <button type="button" class="second" onClick={dropKey}>
          Stop using this key
        </button>
      </p>
    </>
  );
}

function AmountForm({
  label,
  hint,
  button,
  busy,
  submit,
}: {
  label: string;
  hint: string;
  button: string;
  busy: boolean;
  submit: (amount: bigint) => void;
}): JSX.Element {
  const [typed, setTyped] = useState("1.00");
  const amount = atomic(typed);
  const wrong = amount === null || amount === 0n;
  return (
    <form
      class="lookup"
      onSubmit={(event) => {
        event.preventDefault();
        if (!wrong) submit(amount);
      }}
    >
      <div class="field">
        <label for="deposit">{label}</label>
        <input
          id="deposit"
          inputMode="decimal"
          autocomplete="off"
          value={typed}
          aria-invalid={wrong}
          aria-describedby="deposit-hint"
          onInput={(event) => setTyped(event.currentTarget.value)}
        />
      </div>
      <button type="submit" disabled={busy || wrong}>
        {button}
      </button>
      <p id="deposit-hint" class="hint">
        {wrong ? "An amount in dollars, such as 0.25." : hint}
      </p>
    </form>
  );
}

function OpenForm({ status, run, busy }: Acting): JSX.Element {
  return (
    <AmountForm
      label="Deposit, in dollars"
      button="Open channel"
      busy={busy}
      hint="Two questions of the wallet, then none: requests are signed by a key kept in this browser, which can spend this deposit at this gateway and nothing else."
      submit={(amount) => void run((tell) => open(wallet()!, status, amount, tell))}
    />
  );
}

function ChannelBox({ status, kept, run, busy }: Acting & { kept: Kept }): JSX.Element {
  const { data, error, again } = useRead<ChannelState>(`/market/v1/channels/${kept.id}`, 3_000);
  const [adding, setAdding] = useState(false);
  useEffect(() => listen("spent", again), []);
  const connected = wallet();
  const act = (work: (tell: Tell) => Promise<unknown>) => run(work).then(again);
  if (!data) {
    return error ? (
      <>
        <Failure error={error} />
        <button type="button" class="second" onClick={() => forget(kept.id)}>
          Forget this channel
        </button>
      </>
    ) : (
      <p class="quiet">Reading the channel …</p>
    );
  }
  const exiting = data.exitAt !== 0;
  const empty = BigInt(data.deposited) === 0n || (BigInt(data.deposited) === BigInt(data.settled) && data.reserved === "0");
  return (
    <>
      <Details
        rows={[
          ["Left to spend", <strong key="l">{money(data.available)}</strong>],
          ["Deposited", money(data.deposited)],
          ["Charged", money(data.charged)],
          ["Channel", <a key="c" class="mono" href={href("receipts", kept.id)}>{short(kept.id)}</a>],
          ...(exiting
            ? [["Leaving", `${money(data.exitAmount)}, to be drawn from ${time(data.exitAt)}`] as [string, string]]
            : []),
        ]}
      />
      {!connected && <p class="after quiet">Connect the wallet to add to the deposit or to take the rest back.</p>}
      {connected && !exiting && (
        <p class="after row">
          <button type="button" class="second" aria-expanded={adding} onClick={() => setAdding(!adding)}>
            Add to the deposit
          </button>
          <button
            type="button"
            class="second"
            disabled={busy || free(data) === 0n}
            onClick={() => act((tell) => takeBack(connected, kept, data, tell))}
          >
            Take the rest back
          </button>
          <button
            type="button"
            class="second"
            disabled={busy || empty}
            onClick={() => act((tell) => startExit(connected, kept, data, tell))}
          >
            Leave without the gateway
          </button>
          {empty && (
            <button type="button" class="second" onClick={() => forget(kept.id)}>
              Forget this channel
            </button>
          )}
        </p>
      )}
      {connected && exiting && (
        <p class="after row">
          <button
            type="button"
            class="second"
            disabled={busy || data.exitAt * 1000 > Date.now()}
            onClick={() => act((tell) => draw(connected, kept, tell))}
          >
            Draw {money(data.exitAmount)}
          </button>
        </p>
      )}
      {adding && connected && !exiting && (
        <AmountForm
          label="Add, in dollars"
          button="Deposit"
          busy={busy}
          hint="The wallet signs a permit and sends one transaction."
          submit={(amount) => void act((tell) => topUp(connected, status, kept, amount, tell)).then(() => setAdding(false))}
        />
      )}
    </>
  );
}
