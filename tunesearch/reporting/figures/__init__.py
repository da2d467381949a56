"""The figures of the report: each a plotly figure with a sentence that helps to read it and a table that says the same.

Optuna's own plots where it has them. Backgrounds, grids and fonts are left to the page, which knows light and dark.
"""
