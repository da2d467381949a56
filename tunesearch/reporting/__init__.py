"""The report of a search: one HTML file that opens anywhere, also offline. A view of the ledger; it changes nothing.

Called ``reporting`` because ``tunesearch.report`` is the verb.
"""
