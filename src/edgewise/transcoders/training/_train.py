"""Training: every layer, kind and sparsity that is asked for, on the same forwards of the language model."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from edgewise import runs
from edgewise._errors import InputError
from edgewise.models import Model
from edgewise.runs import ONE_PROCESS, Learner, NotFiniteError, Ranks, RunOptions
from edgewise.transcoders import (
    Outcome,
    Site,
    TokenRows,
    Transcoder,
    check_transcoder,
    loss_and_gradients,
    real_tokens,
    run_inputs,
)
from edgewise.transcoders.formats import save
from edgewise.transcoders.training._activations import ActivationStream, LiveActivations
from edgewise.transcoders.training._cache import CachedActivations
from edgewise.transcoders.training._config import TrainingConfig, TrainingJob
from edgewise.transcoders.training._start import start_from_linear_map, start_from_tokens

_THRESHOLD_MEMORY = 0.99  # of the running mean of batch_topk's cut
_START_TOKENS = 16_384  # from which starts in closed form are taken, at most
_FEW_TOKENS = 4096  # from which means and scales are, at most


@dataclass(frozen=True)
class Trained:
    """What a run made."""

    transcoders: Mapping[str, tuple[Transcoder, ...]]
    """By job; several where they are a cross-layer set."""
    metrics: Mapping[str, Mapping[str, float]]
    """By job, of the last step: loss, active features per token, explained variance, share of dead features; empty
    where nothing was left to do."""
    steps: int
    seconds: float
    """Over all parts of a resumed run."""
    stopped: str | None
    """Why it ended early, or None."""
    interrupted: bool
    """Whether it was interrupted, be it in the last step, after which it is whole: nothing should follow then."""


def train(
    model: Model,
    tokens: TokenRows,
    config: TrainingConfig,
    *,
    cache: CachedActivations | None = None,
    options: RunOptions | None = None,
) -> Trained:
    """Train transcoders. Under `torchrun`, on all of its processes.

    Args:
        model: the language model; left as it was.
        tokens: the text.
        config: what, and how.
        cache: activations of the same rows to read instead of running the model.
        options: checkpoints, progress, logs; with `out`, the transcoders are also written there.

    Returns:
        The transcoders, in every process the same.

    Raises:
        InputError: a layer or site is not the model's, there is too little text, the cache is of other rows, or the
            folder holds another run's checkpoint.
    """
    options, config = options or RunOptions(checkpoint_seconds=300.0), config.on(model.device)
    if cache is not None and not torch.equal(cache.ids, tokens.ids):
        raise InputError(f"{cache.folder}: the cache is of other tokens than this text; write it anew")
    if cache is not None and cache.header["model"]["weights_hash"] != model.identity["weights_hash"]:
        raise InputError(f"{cache.folder}: the cache is of a model with other weights; write it anew")
    with runs.processes(model.device) as ranks:
        learner = TranscoderLearner(model, tokens, config, cache, ranks)
        settings = {
            "method": "transcoders",
            **run_inputs(model, tokens),
            "cache": None if cache is None else {key: cache.header[key] for key in ("dtype", "low")},
            **asdict(config),
        }
        report = runs.run_steps(learner, config.steps, settings, options, "training", ranks)
        provenance = {"model": model.identity, "method": settings | report.record(), "software": runs.software()}
        for job in learner.jobs:
            for transcoder in learner.transcoders[job.name]:
                transcoder.provenance = provenance | {"job": job.name}
        if options.out is not None and ranks.rank == 0:
            for name, transcoders in learner.transcoders.items():
                for each in transcoders:  # one file, or in a folder one for each layer of a set
                    path = f"{name}/layer{each.spec.reads.layer}" if len(transcoders) > 1 else name
                    save(each, options.out / f"{path}.safetensors")
    return Trained(
        learner.transcoders, learner.each(), report.steps, report.seconds, report.message, report.interrupted
    )


class TranscoderLearner(Learner):
    """The transcoders of all jobs, their optimiser, and which features have been silent for how long."""

    on_interrupt = "finish"  # the state may be gigabytes

    def __init__(
        self,
        model: Model,
        tokens: TokenRows,
        config: TrainingConfig,
        cache: CachedActivations | None = None,
        ranks: Ranks = ONE_PROCESS,
    ) -> None:
        """Set up; `begin` gives the weights their start."""
        self.config, self.ranks = config.on(model.device), ranks
        self.jobs = config.jobs(model.parts.d_model)
        self.bf16 = self.config.precision == "bfloat16"
        sites = _sites(self.jobs)
        dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
        self.dtype, self.device = dtype, model.device
        source = LiveActivations(model, tokens.ids, sites, bf16=self.bf16)
        if cache is not None:
            source = CachedActivations(cache.folder, sites)
        self.stream = ActivationStream(
            source,
            real_tokens(model, tokens.ids, exclude_special=config.exclude_special),
            batch_tokens=config.batch_tokens,
            pool_tokens=config.pool_tokens,
            lanes=config.lanes,
            seed=config.seed,
            ranks=ranks,
        )
        self.transcoders = {
            job.name: tuple(Transcoder(spec, dtype=dtype, device=model.device) for spec in job.specs)
            for job in self.jobs
        }
        for transcoders in self.transcoders.values():
            for transcoder in transcoders:
                check_transcoder(model, transcoder)
        self.silent = {
            name: [torch.zeros(t.n_features, dtype=torch.long, device=model.device) for t in ts]
            for name, ts in self.transcoders.items()
        }
        self.optimizer = torch.optim.Adam([group for job in self.jobs for group in self._groups(job)], fused=True)
        self.outcomes: dict[str, Outcome] = {}
        self._since: tuple[int, float] | None = None  # this process's first step, and when it began

    def _parameters(self, job: TrainingJob) -> list[torch.nn.Parameter]:
        return [p for t in self.transcoders[job.name] for p in t.parameters()]

    def _groups(self, job: TrainingJob) -> list[dict[str, Any]]:
        """A job's parameters, and what each kind's learning rate is multiplied with."""
        skips = [t.W_skip for t in self.transcoders[job.name] if t.W_skip is not None]
        others = [p for p in self._parameters(job) if not any(p is each for each in skips)]
        groups = [{"params": others, "job": job, "share": 1.0}]
        return groups if not skips else [*groups, {"params": skips, "job": job, "share": self.config.skip_rate}]

    @torch.no_grad()
    def begin(self) -> None:
        """Give the weights their start, from the first batches' tokens (of all processes)."""
        n_batches = -(-_START_TOKENS // self.config.batch_tokens)
        for number, job in enumerate(self.jobs):
            found = {site: self._first(site, n_batches) for site in _sites([job])}
            for i, transcoder in enumerate(self.transcoders[job.name]):
                seed = self.config.seed * 1_000_003 + number * 1009 + i
                self._begin(transcoder, found, seed, alone=len(job.specs) == 1)

    def _begin(self, transcoder: Transcoder, found: Mapping[Site, Tensor], seed: int, *, alone: bool) -> None:
        x, y = found[transcoder.spec.reads], torch.stack([found[site] for site in transcoder.spec.writes], 1)
        transcoder.initialise(x[:_FEW_TOKENS], y[:_FEW_TOKENS], seed, unit_norm=self.config.unit_norm)
        if transcoder.activation.kind == "jumprelu":
            transcoder.threshold.fill_(self.config.threshold)
        if transcoder.W_skip is not None:
            start_from_linear_map(transcoder, x, y[:, 0])
        if self.config.start == "tokens" and alone and transcoder.activation.counted:
            start_from_tokens(transcoder, x, y[:, 0], seed, bf16=self.bf16)

    def _first(self, site: Site, n_batches: int) -> Tensor:
        """A site's vectors in the first batches. Raises `InputError` where they are not finite."""
        x = self.ranks.gather(self.stream.first(site, n_batches).to(self.device, self.dtype))
        if not bool(x.isfinite().all()):
            raise InputError(f"{site}: the model itself gives NaN or infinity there; its weights are spoiled")
        return x

    def step(self, step: int) -> dict[str, Tensor | float]:
        """One batch for every job; returns the jobs' mean metrics.

        Raises:
            NotFiniteError: a loss or gradient is not finite; nothing has been changed then.
        """
        self._since = self._since or (step, time.monotonic())
        batch = self._batch(step)
        outcomes = {job.name: self._gradients(job, batch, step) for job in self.jobs}
        for group in self.optimizer.param_groups:
            group["lr"] = group["share"] * self.config.rate(step, group["job"].specs[0].n_features)
        self.optimizer.step()
        for job in self.jobs:
            self._after(job, outcomes[job.name], step)
        self.outcomes = outcomes
        each = [self._measured(job.name) for job in self.jobs]
        found: dict[str, Tensor | float] = {name: torch.stack([m[name] for m in each]).mean() for name in each[0]}
        first, begin = self._since
        return found | {"tokens/s": (step + 1 - first) * self.config.batch_tokens / (time.monotonic() - begin)}

    def _batch(self, step: int) -> dict[Site, Tensor]:
        return {site: x.to(self.device, self.dtype) for site, x in self.stream.batch(step).items()}

    def _gradients(self, job: TrainingJob, batch: Mapping[Site, Tensor], step: int) -> Outcome:
        transcoders, warmup = self.transcoders[job.name], self.config.sparsity_warmup
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        targets = torch.stack([batch[site] for site in job.specs[0].writes], 1)  # (b, T, D)
        outcome = loss_and_gradients(
            transcoders,
            [batch[spec.reads] for spec in job.specs],
            targets,
            replace(job.objective, sparsity=job.objective.sparsity * rise),
            dead=[silent > self.config.dead_after for silent in self.silent[job.name]],
            bf16=self.bf16,
            ranks=self.ranks,
        )
        if self.config.unit_norm:
            for transcoder in transcoders:
                _project(transcoder)
        parameters = self._parameters(job)
        for parameter in parameters:
            if self.ranks.size > 1 and parameter.grad is not None:
                parameter.grad = self.ranks.sum(parameter.grad)
        bound = torch.inf if self.config.clip is None else self.config.clip
        norm = torch.nn.utils.clip_grad_norm_(parameters, bound)
        if not bool(torch.isfinite(norm + outcome.loss)):
            raise NotFiniteError(f"{job.name}: the loss is {float(outcome.loss)}, its gradient's norm {float(norm)}")
        return outcome

    @torch.no_grad()
    def _after(self, job: TrainingJob, outcome: Outcome, step: int) -> None:
        """What follows an update: constraints, thresholds, and which features were silent."""
        kept = zip(self.transcoders[job.name], self.silent[job.name], outcome.fired, outcome.cuts, strict=True)
        for transcoder, silent, fired, cut in kept:
            silent.add_(self.config.batch_tokens).masked_fill_(fired, 0)
            if self.config.unit_norm:
                transcoder.W_dec.div_(transcoder.W_dec.norm(dim=1, keepdim=True).clamp(min=1e-12))
            if transcoder.activation.kind == "jumprelu":
                transcoder.threshold.clamp_(min=0)
            if transcoder.activation.kind == "batch_topk":
                transcoder.threshold.lerp_(cut.to(transcoder.threshold), 1 - _THRESHOLD_MEMORY if step else 1.0)

    def _measured(self, name: str) -> dict[str, Tensor]:
        outcome, silent = self.outcomes[name], torch.cat(self.silent[name])
        return {
            "loss": outcome.loss,
            "active": outcome.active / len(self.transcoders[name]),
            "explained": 1 - outcome.unexplained.mean(),
            "dead": (silent > self.config.dead_after).to(outcome.loss).mean(),
        }

    def each(self) -> dict[str, dict[str, float]]:
        """Every job's metrics of the last step; empty before the first."""
        return {name: {key: float(x) for key, x in self._measured(name).items()} for name in self.outcomes}

    def tensors(self) -> dict[str, Tensor]:
        """Weights, thresholds, silences and the optimiser's state."""
        found: dict[str, Tensor] = {}
        for job in self.jobs:
            for i, (t, silent) in enumerate(zip(self.transcoders[job.name], self.silent[job.name], strict=True)):
                found |= {f"{job.name}/{i}/{name}": tensor for name, tensor in t.state_dict().items()}
                found[f"{job.name}/{i}/silent"] = silent
        return found | runs.optimizer_tensors(self.optimizer)

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        for name, tensor in self.tensors().items():
            if not name.startswith("optimizer."):
                tensor.copy_(tensors[name])
        runs.restore_optimizer(self.optimizer, tensors)


def _sites(jobs: Sequence[TrainingJob]) -> list[Site]:
    """All the sites that jobs read or write, each once."""
    return list(dict.fromkeys(site for job in jobs for spec in job.specs for site in (spec.reads, *spec.writes)))


@torch.no_grad()
def _project(transcoder: Transcoder) -> None:
    """Take off the decoder's gradient what points along its rows, which the norm would undo."""
    gradient, rows = transcoder.W_dec.grad, transcoder.W_dec
    assert gradient is not None
    along = torch.linalg.vecdot(gradient, rows) / rows.square().sum(1).clamp(min=1e-24)
    gradient.addcmul_(rows, along[:, None], value=-1)
