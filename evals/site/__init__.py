"""The report as a page: one folder that works from a file, and a server for runs as they grow.

Read first `render.py` (what is written), then `summary.py` (scores) and `pictures.py` (images,
verdicts and detections). Which results are one line of a chart, and their names, is for
`evals.report.lines`. `static/` holds the page's own JavaScript and style, joined in the order of
their names: no library, so that the page runs under a policy that forbids all other scripts, takes
its colours from one place and can be committed.
"""
