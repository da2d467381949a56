"""Views of what is known: the report of a search, tables over trials, the leaderboard. They change nothing.

Called ``reporting`` because ``tunesearch.report`` is the verb.
"""
