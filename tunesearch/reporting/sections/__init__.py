"""The sections of the page, each a function from the search to its items."""
