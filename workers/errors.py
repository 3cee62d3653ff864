"""What a worker refuses or fails at, with a stable code and who may usefully try again.

WorkerError
├── StartError      the worker does not start; a person must mend something
├── ModelError      a package or model cannot be served
└── JobError        one job is refused or failed; travels to the gateway as data
"""

from __future__ import annotations

from contracts.protocol.errors import CodedError, Retry


class WorkerError(CodedError):
    """Base of the worker's errors."""

    code = "worker"


class StartError(WorkerError):
    """The worker cannot start as configured."""

    code = "worker-configuration"


class ChainNotReady(StartError):
    """The chain's node is away, serves another chain, or has no contracts where they should be."""

    code = "worker-chain"


class RedisNotReady(StartError):
    """The broker does not answer."""

    code = "worker-redis"


class GatewayNotReady(StartError):
    """The gateway does not answer, or is not the one meant."""

    code = "worker-gateway"


class ClockOff(StartError):
    """This machine's clock differs from the gateway's or the chain's."""

    code = "worker-clock"


class Convicted(StartError):
    """The gateway convicted this worker of answers that others do not give, and sells none of its offers."""

    code = "worker-convicted"


class DiskFull(StartError):
    """A folder of the worker has no room, or cannot be written."""

    code = "worker-disk"


class JournalUnusable(StartError):
    """The worker's journal, by which it is paid without the gateway, cannot be opened."""

    code = "journal-unusable"


class NotRegistered(StartError):
    """The worker's key is not registered on chain with enough stake."""

    code = "worker-not-registered"


class ModelNotListed(StartError):
    """A model is not listed on chain, or its owner took it down."""

    code = "model-not-listed"


class OfferOutsideBounds(StartError):
    """The worker's price is outside the bounds that the model's owner set."""

    code = "offer-outside-bounds"


class NotEnoughTokens(WorkerError):
    """The operator's account holds less than it would stake."""

    code = "not-enough-tokens"


class NothingToChallenge(WorkerError):
    """No countersigned receipt, or no open challenge, to hold against a gateway."""

    code = "nothing-to-challenge"


class ModelError(WorkerError):
    """A model package cannot be fetched, checked or loaded."""

    code = "model"


class PackageUnavailable(ModelError):
    """A model package cannot be fetched from its address."""

    code = "package-unavailable"
    retry = Retry.LATER


class ModelHashMismatch(ModelError):
    """A file of the package is not what the model id on chain stands for."""

    code = "model-hash-mismatch"


class UnsafePackage(ModelError):
    """A package has a file that must not be followed or is larger than allowed."""

    code = "unsafe-package"


class ModelUnusable(ModelError):
    """The runtime cannot load the model, or it does not do what its manifest says."""

    code = "model-unusable"


class SandboxMissing(ModelError):
    """A stranger's model is to be served where there is no sandbox to run it in."""

    code = "sandbox-missing"


class JobError(WorkerError):
    """A job is refused or failed."""

    code = "job"


class JobRefused(JobError):
    """The job's papers are not in order: this worker would not be paid for it."""

    code = "job-refused"
    retry = Retry.OTHER_WORKER


class InputsRefused(JobError):
    """The inputs are not what the model takes; no worker will take them."""

    code = "inputs-refused"


class JobTooLate(JobError):
    """The deadline has passed."""

    code = "job-too-late"


class OutOfTime(JobError):
    """This worker does not finish inputs of this size before the deadline."""

    code = "out-of-time"
    retry = Retry.OTHER_WORKER


class InputsGone(JobError):
    """The inputs that the job names by reference are not there."""

    code = "inputs-gone"
    retry = Retry.SAME


class ExecutionFailed(JobError):
    """The model failed on these inputs."""

    code = "execution-failed"
    retry = Retry.OTHER_WORKER


class OutOfMemory(ExecutionFailed):
    """The model takes more memory for these inputs than this worker has for it."""

    code = "out-of-memory"


class JournalUnwritable(JobError):
    """The worker could not keep its receipt of the job, without which nobody would have to pay for it."""

    code = "journal-unwritable"
    retry = Retry.OTHER_WORKER


class AnsweredOtherwise(JobError):
    """The worker signed another answer to this request before: two would cost it its stake."""

    code = "answered-otherwise"
    retry = Retry.OTHER_WORKER


class ModelDied(ExecutionFailed):
    """The process that ran the model ended before it answered, or was ended at its limit of time or memory."""

    code = "model-died"


class ModelWithdrawn(JobError):
    """The model's process ended too often: this worker does not serve it for a while."""

    code = "model-withdrawn"
    retry = Retry.OTHER_WORKER


class CrowdedOut(JobError):
    """This worker has no room for the job."""

    code = "crowded-out"
    retry = Retry.OTHER_WORKER


class JobCancelled(JobError):
    """The gateway called the job off before anything was made."""

    code = "job-cancelled"
