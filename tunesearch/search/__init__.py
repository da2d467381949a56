"""The search: Ray Tune executes, Optuna suggests, the ledger remembers."""
