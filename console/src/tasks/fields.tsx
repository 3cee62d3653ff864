// What a person fills in, by task.

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { Model } from "../api.ts";
import { number } from "../format.ts";
import { audioInput, rateOf, rawName, readSound, soundTensor } from "./sound.ts";
import { kindOf, type Given } from "./tasks.ts";

interface Filling {
  model: Model;
  given: Given;
  /** Of what is given only these change: a file takes a while to read, and more may be typed meanwhile. */
  change: (part: Partial<Given>) => void;
}

export function Fields(filling: Filling): JSX.Element {
  const kind = kindOf(filling.model);
  if (kind === "image") return <PictureField {...filling} />;
  if (kind === "texts") return <TextField {...filling} label="Texts, one a line" rows={5} />;
  if (kind === "ranking") {
    return (
      <>
        <QueryField {...filling} />
        <TextField {...filling} label="Documents, one a line" rows={5} />
      </>
    );
  }
  if (kind === "sound") {
    const others = (filling.model.inputs ?? []).length > 1;
    return (
      <>
        <SoundField {...filling} />
        {others && <TextField {...filling} label="The other input tensors, as JSON" rows={5} mono />}
      </>
    );
  }
  return <TextField {...filling} label="Input tensors, as JSON" rows={9} mono />;
}

function TextField({
  given,
  change,
  label,
  rows,
  mono = false,
}: Filling & { label: string; rows: number; mono?: boolean }): JSX.Element {
  return (
    <div class="field">
      <label for="given">{label}</label>
      <textarea
        id="given"
        class={mono ? "mono" : ""}
        rows={rows}
        spellcheck={!mono}
        value={given.text}
        onInput={(event) => change({ text: event.currentTarget.value })}
      />
    </div>
  );
}

function QueryField({ given, change }: Filling): JSX.Element {
  return (
    <div class="field">
      <label for="query">Rank by</label>
      <input
        id="query"
        value={given.query}
        autocomplete="off"
        onInput={(event) => change({ query: event.currentTarget.value })}
      />
    </div>
  );
}

/** A place where a file is dropped or chosen, with what is shown of it below. */
function Drop({
  label,
  accept,
  take,
  children,
}: {
  label: string;
  accept: string;
  take: (file: File) => void;
  children?: JSX.Element | false | null;
}): JSX.Element {
  const [over, setOver] = useState(false);
  const stop = (event: Event, hovering: boolean) => {
    event.preventDefault();
    setOver(hovering);
  };
  const taken = (file: File | undefined) => file && take(file);
  return (
    <div
      class={over ? "drop over" : "drop"}
      onDragOver={(event) => stop(event, true)}
      onDragLeave={(event) => stop(event, false)}
      onDrop={(event) => {
        stop(event, false);
        taken(event.dataTransfer?.files[0]);
      }}
    >
      <label for="file">{label}</label>
      <input id="file" type="file" accept={accept} onChange={(event) => taken(event.currentTarget.files?.[0])} />
      {children}
    </div>
  );
}

function PictureField({ given, change }: Filling): JSX.Element {
  const take = async (file: File) => {
    if (given.image) URL.revokeObjectURL(given.image.url);
    const bytes = new Uint8Array(await file.arrayBuffer());
    change({ image: { name: file.name, bytes, url: URL.createObjectURL(file) } });
  };
  return (
    <Drop
      label="Picture (PNG, JPEG or WebP): drop it here, or choose a file"
      accept="image/png,image/jpeg,image/webp"
      take={(file) => void take(file)}
    >
      {given.image && <img src={given.image.url} alt={`What is sent: ${given.image.name}`} />}
    </Drop>
  );
}

function SoundField({ model, given, change }: Filling): JSX.Element {
  const [complaint, setComplaint] = useState("");
  const [saved, setSaved] = useState("");
  const rate = rateOf(model)!;
  const spec = audioInput(model)!;
  const { sound } = given;
  useEffect(() => {
    if (!sound) return undefined;
    const url = URL.createObjectURL(new Blob([soundTensor(spec, sound).data as BlobPart]));
    setSaved(url);
    return () => URL.revokeObjectURL(url);
  }, [sound]);
  const take = async (file: File) => {
    try {
      const read = await readSound(file, rate);
      if (sound) URL.revokeObjectURL(sound.url);
      setComplaint("");
      change({ sound: read });
    } catch (error) {
      setComplaint((error as Error).message);
    }
  };
  return (
    <Drop
      label="Recording (WAV, MP3, FLAC, OGG, …): drop it here, or choose a file"
      accept="audio/*"
      take={(file) => void take(file)}
    >
      <>
        {complaint && (
          <p class="complaint" role="alert">
            {complaint}
          </p>
        )}
        {sound && (
          <>
            <audio controls src={sound.url} aria-label={`What is sent: ${sound.name}`} />
            <p class="quiet after">
              {number(Math.round((sound.samples.length / rate) * 10) / 10)} seconds, sent as {number(sound.samples.length)} samples
              of one channel, {number(rate)} a second.{" "}
              <a href={saved} download={rawName(sound)}>
                Save them as {rawName(sound)}
              </a>
            </p>
          </>
        )}
      </>
    </Drop>
  );
}
