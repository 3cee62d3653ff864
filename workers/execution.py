"""From a pack of jobs to their results: admit, check against the manifest, run by the task's pipeline, encode, sign.

A failure is data with a code, never an exception to the caller, and one bad job never harms its neighbours.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from contracts.protocol.errors import CodedError
from contracts.protocol.manifest import Manifest
from contracts.protocol.messages import Job, Result
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import Domain
from workers import telemetry
from workers.admission import Admission, Admitted, Served
from workers.errors import InputsGone, InputsRefused, OutOfTime
from workers.generating import Generations
from workers.models.generation.model import GenerationModel
from workers.models.generation.request import read_request
from workers.models.isolated.model import IsolatedModel
from workers.models.pipelines.base import Answer
from workers.models.serving import Batches, Outcomes, Request, check_inputs, serve, stumbled
from workers.models.sessions import SessionCache
from workers.models.sizes import Size, SlowSizes
from workers.papers import SignedWork
from workers.receipts import Signer, Unsigned, failed, veiled

# A batch that took this long is worth a reply of its own.
EARLY_SECONDS = 0.005

_READ = telemetry.TOKENS.labels("read")


class Executor:
    """Runs the packs of one worker, one at a time."""

    def __init__(
        self,
        *,
        key: PrivateKey,
        domain: Domain,
        admission: Admission,
        served: Mapping[bytes, Served],
        sessions: SessionCache,
    ) -> None:
        self._signer = Signer(key=key, domain=domain)
        self.generations = Generations(self._signer)
        self._admission = admission
        self._served = served
        self._sessions = sessions
        self._slow: defaultdict[bytes, SlowSizes] = defaultdict(SlowSizes)

    def run(
        self,
        jobs: Sequence[tuple[Job, bytes | None]],
        *,
        early: Callable[[Sequence[tuple[Job, Result]], Sequence[SignedWork]], None] | None = None,
    ) -> tuple[list[Result | None], list[SignedWork]]:
        """Run jobs with their inputs (None where a reference led nowhere); results in the same order.

        A result is None where a generation was started, which `generations` tells of as it goes on.

        `early` is told a batch's results and work at once where the next batch would keep them waiting for long; the
        work it was told is not returned again.
        """
        telemetry.PACKS.observe(len(jobs))
        results: dict[int, Result] = {}
        ready: dict[bytes, dict[int, Admitted]] = {}
        unsigned: dict[int, Unsigned] = {}
        if len(jobs) > 1:
            self._admission.foresee([job for job, _ in jobs])
        for i, (job, inputs) in enumerate(jobs):
            try:
                admitted = self._admit(job, inputs)
            except CodedError as error:
                results[i] = failed(job, error)
                continue
            except Exception as error:
                results[i] = failed(job, stumbled(job.model_id, error))
                continue
            known = self._signer.again(admitted)
            if known is None:
                ready.setdefault(job.model_id, {})[i] = admitted
            else:
                unsigned[i] = known
        work: list[SignedWork] = []
        # A stranger's model may take its whole time: the others' clients do not wait for it.
        for model_id, members in sorted(ready.items(), key=lambda one: self._sessions.is_confined(one[0])):
            for outcomes, seconds in self._run_model(self._served[model_id], members):
                for i, outcome in outcomes.items():
                    done = (
                        outcome if isinstance(outcome, CodedError) else self._signer.seal(members[i], outcome, seconds)
                    )
                    if isinstance(done, CodedError):
                        results[i] = failed(jobs[i][0], veiled(members[i], done))
                    else:
                        unsigned[i] = done
                waiting = len(jobs) - len(results) - len(unsigned)
                if seconds >= EARLY_SECONDS and early is not None and waiting:
                    told = [*(i for i in outcomes if i in results), *unsigned]
                    fresh = self._sign(unsigned, results)
                    early([(jobs[i][0], results[i]) for i in told], fresh)
        work.extend(self._sign(unsigned, results))
        for code, count in Counter(result.code or "ok" for result in results.values()).items():
            telemetry.JOBS.labels(code).inc(count)
        return [results.get(i) for i in range(len(jobs))], work

    def _sign(self, unsigned: dict[int, Unsigned], results: dict[int, Result]) -> list[SignedWork]:
        """Sign what waits, all at once, into `results`; returns it for the journal and leaves nothing waiting."""
        signed = self._signer.sign(list(unsigned.values()))
        results.update(zip(unsigned, (result for result, _ in signed), strict=True))
        unsigned.clear()
        return [work for _, work in signed]

    def _admit(self, job: Job, inputs: bytes | None) -> Admitted:
        if inputs is None:
            raise InputsGone("the inputs are no longer kept.", field="inputs_ref")
        admitted = self._admission.check(job, inputs)
        manifest = self._served[job.model_id].package.manifest
        try:
            check_inputs(manifest, admitted.tensors)
        except InputsRefused as error:
            raise veiled(admitted, error) from error
        check_outputs(manifest, job.outputs)
        return admitted

    def _run_model(self, served: Served, members: Mapping[int, Admitted]) -> Batches:
        """Yield the outcomes batch by batch, each with the seconds that its batch took."""
        try:
            model = self._sessions.get(served.package)
        except CodedError as error:
            yield dict.fromkeys(members, error), 0.0
            return
        telemetry.LOADED_MODELS.set(self._sessions.loaded())
        if isinstance(model, GenerationModel):
            yield self._generate(model, members), 0.0
            return
        slow = self._slow[served.package.model_id]
        if slow:
            refused = _too_slow(slow, members)
            if refused:
                yield refused, 0.0
            members = {i: one for i, one in members.items() if i not in refused}
        if not members:
            return
        names = list(members)
        requests = [Request(one.tensors, one.parameters, one.job.deadline_at) for one in members.values()]
        batches = model.serve(requests) if isinstance(model, IsolatedModel) else serve(model, requests)
        for outcomes, seconds in batches:
            if seconds:
                telemetry.COMPUTE.observe(seconds)
                _learn(slow, {i: requests[i] for i in outcomes}, outcomes, seconds)
            _READ.inc(sum(one.units for one in outcomes.values() if isinstance(one, Answer)))
            yield {names[position]: outcome for position, outcome in outcomes.items()}, seconds

    def _generate(self, model: GenerationModel, members: Mapping[int, Admitted]) -> Outcomes:
        """Start generations; returns what was refused."""
        refused: Outcomes = {}
        for i, admitted in members.items():
            try:
                asked = "logprobs" in admitted.job.outputs
                request = read_request(model.manifest, admitted.tensors, admitted.parameters, logprobs=asked)
                self.generations.start(model, admitted, request)
            except CodedError as error:
                refused[i] = error
            except Exception as error:
                refused[i] = stumbled(admitted.job.model_id, error)
        return refused


def _too_slow(slow: SlowSizes, members: Mapping[int, Admitted]) -> Outcomes:
    """Return the refusals of what cannot be ready in time."""
    now = time.time()
    refused: Outcomes = {}
    for i, one in members.items():
        try:
            slow.check(Size.of([one.tensors]), one.job.deadline_at - now)
        except OutOfTime as error:
            refused[i] = error
    return refused


def _learn(slow: SlowSizes, requests: Mapping[int, Request], outcomes: Outcomes, seconds: float) -> None:
    """Note how long a batch took, where that says something."""
    late = any(isinstance(one, OutOfTime) for one in outcomes.values())
    if not late and not slow:
        return
    size = Size.of([one.tensors for one in requests.values()])
    if late:
        slow.late(size, seconds)
    elif any(isinstance(one, Answer) for one in outcomes.values()):
        slow.ready(size, seconds)


def check_outputs(manifest: Manifest, wanted: Sequence[str]) -> None:
    """Check the requested output names.

    Raises:
        InputsRefused: a name the model does not give.
    """
    unknown = set(wanted) - {spec.name for spec in manifest.outputs}
    if unknown:
        raise InputsRefused(f"no output is called {min(unknown)}.", field="outputs")
