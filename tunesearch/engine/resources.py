"""What one trial may take, and how many fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tunesearch.errors import InputError, Problem


@dataclass(frozen=True)
class Resources:
    """Of one trial, and how many trials run at once.

    Attributes:
        cpus: whole CPUs; also the number of threads torch uses.
        gpus: a fraction below 1 packs several trials onto one GPU.
        concurrent: trials at once.
    """

    cpus: int
    gpus: float
    concurrent: int


def plan_resources(
    nodes: list[dict[str, float]],
    *,
    cpus: int | None = None,
    gpus: float | None = None,
    concurrent: int | None = None,
    grows: bool = False,
) -> Resources:
    """Fill in what was not given, from what each node of the cluster has, and check that a trial fits.

    Without GPUs up to four trials share a node's CPUs; with GPUs a trial gets one and its share of the CPUs, at most 8.

    Args:
        nodes: one dict a node with ``CPU`` and ``GPU`` counts, as Ray reports them.
        cpus, gpus, concurrent: what the user asked for; None: not given.
        grows: nodes may join later, so that ``concurrent`` is taken as given: what does not fit yet waits.

    Raises:
        InputError: a trial fits on no node.
    """
    most_cpus = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
    most_gpus = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    gpus_each = gpus if gpus is not None else (1.0 if most_gpus >= 1 else 0.0)
    if gpus_each > 1 and gpus_each != int(gpus_each):
        raise InputError(Problem("--gpus-per-trial", "must be whole above 1", value=f"{gpus_each:g}"))
    if cpus is not None:
        cpus_each = cpus
    elif gpus_each > 0:
        per_trial = most_cpus * gpus_each / max(most_gpus, gpus_each)
        cpus_each = max(1, min(8, math.floor(per_trial)))
    else:
        cpus_each = max(1, math.floor(most_cpus / 4))
    fitting = sum(_fits(node, cpus_each, gpus_each) for node in nodes)
    if fitting < 1:
        raise InputError(
            Problem(
                where="--gpus-per-trial" if gpus_each > most_gpus else "--cpus-per-trial",
                rule="a trial must fit on a node",
                value=f"{cpus_each} CPUs and {gpus_each:g} GPUs a trial, where the largest node has "
                f"{most_cpus:g} CPUs and {most_gpus:g} GPUs",
            )
        )
    most = concurrent or fitting
    return Resources(cpus=cpus_each, gpus=gpus_each, concurrent=most if grows else min(most, fitting))


def plan_workers(nodes: list[dict[str, float]], workers: int) -> Resources:
    """What each of several processes that train one network takes: a GPU where there are any, and CPUs.

    Args:
        nodes: as for :func:`plan_resources`.

    Raises:
        InputError: they do not all fit.
    """
    gpus = 1.0 if any(node.get("GPU", 0.0) >= 1 for node in nodes) else 0.0
    most = max((math.floor(node.get("CPU", 0.0)) for node in nodes), default=0)
    for cpus in range(most, 0, -1):
        if sum(_fits(node, cpus, gpus) for node in nodes) >= workers:
            return Resources(cpus=cpus, gpus=gpus, concurrent=workers)
    number = sum(_fits(node, 1, gpus) for node in nodes)
    rule = f"must be at most the number of {'GPUs' if gpus else 'CPUs'} there are, {number}"
    raise InputError(Problem("--workers", rule, value=str(workers)))


def _fits(node: dict[str, float], cpus: int, gpus: float) -> int:
    """How many trials a node takes. A trial's fraction of a GPU lies on one GPU."""
    by_cpu = math.floor(node.get("CPU", 0.0) / cpus + 1e-9)
    if gpus <= 0:
        return by_cpu
    devices = math.floor(node.get("GPU", 0.0) + 1e-9)
    by_gpu = devices * math.floor(1 / gpus + 1e-9) if gpus < 1 else math.floor(devices / gpus + 1e-9)
    return min(by_cpu, by_gpu)
