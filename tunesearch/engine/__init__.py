"""Ray: where trials run, what they may take, and how a search is driven from the ledger to its end."""
