"""Everything that tunesearch raises on purpose.

TunesearchError             base: the command line prints it as one clean message
├── InputError              something the user gave is wrong; every problem at once; exit code 2
│   ├── DataError           the data set: missing partners, unreadable files, unknown labels ...
│   │   └── PicturesSkipped some pictures could not be read, the others are done; exit code 1
│   ├── WeightsError        encoder weights that cannot be had or do not fit
│   ├── SearchNameError     a search that exists already, or does not exist
│   ├── LedgerError         a search whose files are damaged
│   └── LedgerBusy          another process drives this search
├── Infeasible              this configuration cannot be built (a network that its encoder does not allow)
├── NoUsableTrial           the search ended and no trial gave a score; exit code 1
├── DiskFull                a disk was full while something was written; exit code 4
├── UnfitNode               a node of the cluster cannot run trials as it is
└── Halted                  the surroundings made a search stop, with its state saved; exit code 4
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, said so that it can be mended without looking anything up.

    Attributes:
        where: file and line (``voc.yaml:12``), an image file, or a flag (``--size``).
        path: dotted path inside ``where`` (``parameters.lr.float``); empty where there is none.
        rule: what must hold.
        value: what was found instead, as text; empty where nothing was found.
        hint: the nearest valid name or the way out; empty where there is none.
    """

    where: str
    rule: str
    path: str = ""
    value: str = ""
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: {self.path}" if self.where and self.path else self.where or self.path
        text = f"{place}: {self.rule}" if place else self.rule
        if self.value:
            text += f", but got {self.value}"
        if self.hint:
            text += f" ({self.hint})"
        return text


class TunesearchError(Exception):
    """Base of all errors raised on purpose; ``exit_code`` is what the command line ends with."""

    exit_code = 1


class InputError(TunesearchError):
    """One or more problems with what the user gave.

    Args:
        problems: all of them, or one message.
    """

    exit_code = 2

    def __init__(self, problems: Sequence[Problem] | Problem | str) -> None:
        if isinstance(problems, str):
            problems = [Problem(where="", rule=problems)]
        elif isinstance(problems, Problem):
            problems = [problems]
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DataError(InputError):
    """The data set cannot be used as it is."""


class PicturesSkipped(DataError):
    """Some pictures could not be read; what was asked for is done for all others.

    Attributes:
        written: the files that were written.
    """

    exit_code = 1

    def __init__(self, problems: Sequence[Problem], written: Sequence[Path]) -> None:
        super().__init__(problems)
        self.written = tuple(written)


class WeightsError(InputError):
    """Encoder weights that cannot be had, read or loaded."""


class SearchNameError(InputError):
    """The name of a search is taken, unknown or no valid name."""


class LedgerError(InputError):
    """The files of a search cannot be read."""


class LedgerBusy(InputError):
    """Another process is driving this search."""


class Infeasible(TunesearchError):
    """A valid configuration whose parts do not go together, known only when the network is built."""

    exit_code = 2


class NoUsableTrial(TunesearchError):
    """The search ended without a single trial that has a score.

    Attributes:
        result: the SearchResult, with every trial and why it ended.
    """

    def __init__(self, message: str, result: object = None) -> None:
        super().__init__(message)
        self.result = result


class DiskFull(TunesearchError):
    """A disk was full while something was written; what was there before is whole."""

    exit_code = 4


class UnfitNode(TunesearchError):
    """A node of the cluster sees another storage, other versions or other data than the driver.

    Attributes:
        node: Ray's id of it.
    """

    def __init__(self, message: str, node: str = "") -> None:
        super().__init__(message, node)  # both, so that it can be pickled
        self.node = node

    def __str__(self) -> str:
        return str(self.args[0])


class Halted(TunesearchError):
    """Its surroundings made a search stop: a full disk, a ledger that cannot be written. ``resume`` goes on.

    Attributes:
        result: the SearchResult so far.
    """

    exit_code = 4

    def __init__(self, message: str, result: object = None) -> None:
        super().__init__(message)
        self.result = result


def nearest(name: object, valid: Iterable[object], *, listed: bool = True) -> str:
    """``did you mean 'lr'?``, or the list of what is valid (unless not ``listed``), or nothing to say."""
    names = [str(item) for item in valid]
    match = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if match:
        return f"did you mean {match[0]!r}?"
    if listed and names and len(names) <= 30:
        return "valid: " + ", ".join(names)
    return ""
