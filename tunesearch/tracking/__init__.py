"""MLflow as a view of the ledger: one parent run per search, one child per trial; it holds no state of its own."""
