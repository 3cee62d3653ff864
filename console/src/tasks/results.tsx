// What came back, shown by task: similarities, scores by label, or the tensors themselves.

import type { JSX } from "preact";
import type { Model } from "../api.ts";
import { number } from "../format.ts";
import { numbers, texts, type Tensor } from "../protocol/tensors.ts";
import { kindOf, labelsOf, linesOf } from "./tasks.ts";

const SHOWN_VALUES = 24;
const SHOWN_LABELS = 5;

export function Results({ model, outputs, text }: { model: Model; outputs: Tensor[]; text: string }): JSX.Element {
  const first = (name: string) => outputs.find((output) => output.name === name);
  const embedding = first("embedding");
  const scores = first("scores");
  if (model.task === "text-embedding" && embedding?.shape.length === 2) {
    return <Similarities embedding={embedding} lines={linesOf(text)} />;
  }
  if (kindOf(model) === "ranking" && scores) return <Ranking scores={scores} lines={linesOf(text)} />;
  if (scores?.shape.length === 2) {
    return <Scores scores={scores} labels={labelsOf(model)} lines={model.task === "text-classification" ? linesOf(text) : []} />;
  }
  return <Tensors outputs={outputs} />;
}

function Similarities({ embedding, lines }: { embedding: Tensor; lines: string[] }): JSX.Element {
  const [rows = 0, width = 0] = embedding.shape;
  const flat = numbers(embedding);
  const vectors = Array.from({ length: rows }, (_, row) => flat.slice(row * width, (row + 1) * width));
  const norms = vectors.map((vector) => Math.hypot(...vector) || 1);
  const cosine = (a: number, b: number) =>
    vectors[a]!.reduce((sum, value, at) => sum + value * vectors[b]![at]!, 0) / (norms[a]! * norms[b]!);
  return (
    <>
      <p class="quiet">
        Cosine similarity of {number(rows)} texts, {number(width)} numbers each.
      </p>
      <div class="scroll" role="region" aria-label="Similarity of the texts" tabIndex={0}>
        <table class="matrix">
          <caption class="hidden">Similarity of the texts</caption>
          <thead>
            <tr>
              <th scope="col">
                <span class="hidden">Text</span>
              </th>
              {vectors.map((_, column) => (
                <th key={column} scope="col" title={lines[column]}>
                  {column + 1}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {vectors.map((_, row) => (
              <tr key={row}>
                <th scope="row" title={lines[row]}>
                  {row + 1}. {lines[row]}
                </th>
                {vectors.map((__, column) => {
                  const value = cosine(row, column);
                  return (
                    <td key={column} class={`heat h${Math.max(0, Math.min(5, Math.round(value * 5)))}`}>
                      {value.toFixed(2)}
                    </td>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

/** The documents, the best first, each with its score. */
function Ranking({ scores, lines }: { scores: Tensor; lines: string[] }): JSX.Element {
  const found = numbers(scores)
    .map((score, at) => ({ score, at }))
    .sort((a, b) => b.score - a.score || a.at - b.at);
  return (
    <ol class="ranking" aria-label="Documents, the best first">
      {found.map(({ score, at }) => (
        <li key={at}>
          <span>{lines[at]}</span>
          <meter min={0} max={1} value={Math.max(0, Math.min(1, score))} aria-label={`Score of document ${at + 1}`}>
            {score.toFixed(3)}
          </meter>
          <span class="num">{score.toFixed(3)}</span>
        </li>
      ))}
    </ol>
  );
}

function Scores({ scores, labels, lines }: { scores: Tensor; labels: string[]; lines: string[] }): JSX.Element {
  const [rows = 0, width = 0] = scores.shape;
  const flat = numbers(scores);
  return (
    <>
      {Array.from({ length: rows }, (_, row) => {
        const found = flat
          .slice(row * width, (row + 1) * width)
          .map((score, at) => ({ score, label: labels[at] ?? `class ${at}` }))
          .sort((a, b) => b.score - a.score);
        return (
          <div key={row} class="scores">
            {lines[row] !== undefined && <h3>{lines[row]}</h3>}
            <dl>
              {found.slice(0, SHOWN_LABELS).map(({ score, label }) => (
                <div key={label}>
                  <dt>{label}</dt>
                  <dd>
                    <meter min={0} max={1} value={Math.max(0, Math.min(1, score))} aria-label={label}>
                      {score.toFixed(3)}
                    </meter>
                    {score.toFixed(3)}
                  </dd>
                </div>
              ))}
            </dl>
          </div>
        );
      })}
    </>
  );
}

function Tensors({ outputs }: { outputs: Tensor[] }): JSX.Element {
  return (
    <>
      {outputs.map((output) => (
        <div key={output.name} class="tensor">
          <h3>
            {output.name}{" "}
            <span class="mono">
              {output.datatype}[{output.shape.join(", ")}]
            </span>
          </h3>
          <pre tabIndex={0} aria-label={`Values of ${output.name}`}>
            {values(output)}
          </pre>
        </div>
      ))}
    </>
  );
}

function values(output: Tensor): string {
  if (output.datatype === "BYTES") return texts(output).slice(0, SHOWN_VALUES).join("\n");
  const all = numbers(output);
  const shown = all.slice(0, SHOWN_VALUES).map((value) => (Number.isInteger(value) ? value : Number(value.toPrecision(6))));
  return shown.join(", ") + (all.length > SHOWN_VALUES ? `, … ${number(all.length - SHOWN_VALUES)} more` : "");
}
