"""The report as a page: one folder that works from a file, and a server for runs as they grow.

Read first `render.py` (which files are written), then `content.py` (what they hold), `summary.py`
and `differences.py` (scores), and `pictures.py` (images, verdicts and detections). Which results
form one line of a chart is decided in `evals.report.lines`. `static/` holds the page's own
JavaScript and style, joined in the order of their names. The page uses no library: it runs under a
policy that forbids all other scripts, takes its colours from one place and can be committed.
"""
