"""Driving a search with MLflow beside it, and telling how it ended whatever ended it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

from tunesearch.api.result import SearchResult, result_of
from tunesearch.engine.callback import SearchCallback
from tunesearch.engine.interruption import Interruption
from tunesearch.engine.options import SearchOptions
from tunesearch.engine.resources import Resources
from tunesearch.engine.run import drive
from tunesearch.errors import DiskFull, Halted, InputError, NoUsableTrial
from tunesearch.ledger.store import Ledger
from tunesearch.strategy.confirmation import confirmation
from tunesearch.tracking.store import default_uri, without_password
from tunesearch.tracking.tracker import Tracker


@dataclass
class _Watched(SearchCallback):
    """A search that is being driven: keeps its status, has MLflow follow it, and tells the user's callback.

    Attributes:
        uri: MLflow's.
        confirming: the session trains what confirms the search; its own status stays as it was.
        before: the search's status before this session.
        again: the command that goes on with it.
    """

    ledger: Ledger
    uri: str
    tracker: Tracker
    user: SearchCallback
    confirming: bool
    before: str = field(init=False)
    again: str = field(init=False)

    def __post_init__(self) -> None:
        self.before = str(self.ledger.attribute("status", "interrupted"))
        asked = confirmation(self.ledger) if self.confirming else None
        self.again = f"resume {self.ledger.name}" if asked is None else f"confirm {self.ledger.name} {asked.flags}"

    def on_message(self, text: str) -> None:
        self.user.on_message(text)

    def on_start(self, ledger: Ledger, resources: Resources) -> None:
        if not self.confirming:
            ledger.set_attribute("status", "running")
        self.tracker.start()
        self.user.on_start(ledger, resources)

    def on_trial_change(self, number: int) -> None:
        self.tracker.changed(number)
        with contextlib.suppress(Exception):  # what only looks on must not end a search
            self.user.on_trial_change(number)

    def on_abandon(self, reason: str) -> None:
        if not self.confirming:
            self.ledger.note("status", "interrupted")
        if self.tracker.started:
            self.tracker.finish(self.before if self.confirming else "interrupted", patience=5.0)
        self.user.on_end()
        again = f"tunesearch {self.again} --storage {self.ledger.folder.parent}"
        self.user.on_message(f"error: {reason}; everything is saved: {again}")

    def ended(self, status: str) -> None:
        """Keep how it ended, and see that MLflow has everything."""
        self.user.on_end()
        if not self.confirming:
            self.ledger.note("status", status)
        if self.tracker.started and not self.tracker.finish(self.before if self.confirming else status):
            self.user.on_message(
                f"MLflow at {without_password(self.uri)} does not have everything ({self.tracker.trouble}); "
                f"tunesearch sync {self.ledger.name} sends the rest"
            )


def search(
    ledger: Ledger, options: SearchOptions, callback: SearchCallback, *, confirming: bool = False
) -> SearchResult:
    """Drive a search, or what confirms it, to its end; the ledger is closed then.

    Raises:
        InputError: nothing was begun.
        Halted, NoUsableTrial: with the result as it stands.
    """
    uri = options.tracking_uri or default_uri(ledger.folder.parent)
    tracker = Tracker(ledger, uri, system_metrics=options.system_metrics, on_message=callback.on_message)
    watched = _Watched(ledger, uri, tracker, callback, confirming)
    ledger.on_wait(callback.on_message)
    status = "failed"
    error: Halted | NoUsableTrial | None = None
    with Interruption() as interruption:
        try:
            status = drive(ledger, options, watched, interruption=interruption, confirming=confirming)
        except (KeyboardInterrupt, SystemExit):  # outside of Ray's loop; Ray's own handler of SIGTERM exits
            status = "interrupted"
        except InputError:
            status = watched.before
            raise
        except (Halted, DiskFull) as caught:
            status, error = "interrupted", caught if isinstance(caught, Halted) else Halted(str(caught))
        except NoUsableTrial as caught:
            error = caught
        finally:
            interruption.ending = True
            watched.ended(status)
            try:
                result = result_of(ledger, status)
            finally:
                ledger.close()
    if error is not None:
        error.result = result
        raise error
    if status != "interrupted" and result.best is None:
        ends = "; ".join(sorted({record.message for record in result.trials if record.message})[:3])
        raise NoUsableTrial(f"search {result.name} ended and no trial has a score. {ends}", result)
    return result


def close(ledger: Ledger, options: SearchOptions, status: str) -> None:
    """Finish what a driver left half written behind the last trial's end, in the ledger and in MLflow."""
    ledger.recover()
    ledger.set_attribute("status", status)
    tracker = Tracker(ledger, options.tracking_uri or default_uri(ledger.folder.parent))
    tracker.start()
    tracker.finish(status)
