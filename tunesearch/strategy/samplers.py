"""Optuna's samplers, made anew for every trial from (search seed, trial number): a resumed search goes on the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import optuna
from optuna.samplers import BaseSampler


def _cmaes(seed: int) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)


def _gp(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.GPSampler(seed=seed)


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    # The ledger enqueues the grid's points; what a point leaves open there is nothing.
    "grid": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": _gp,
    "cmaes": _cmaes,
}


def derived_seed(search_seed: int, number: int, purpose: int) -> int:
    """A 32-bit seed for one purpose (0 sampling, 1 training) of one trial (numpy's SeedSequence)."""
    return int(np.random.SeedSequence([search_seed, number, purpose]).generate_state(1)[0])


def build_sampler(name: str, *, search_seed: int, number: int, warm_start: int = 0) -> BaseSampler:
    """The sampler that suggests trial ``number``.

    Args:
        warm_start: the seed of what the search was started with, so that it does not draw again what an earlier search
            of the same seed has drawn; 0: it was started with nothing.
    """
    if not warm_start:
        return SAMPLERS[name](derived_seed(search_seed, number, 0))
    return SAMPLERS[name](int(np.random.SeedSequence([search_seed, number, 0, warm_start]).generate_state(1)[0]))
