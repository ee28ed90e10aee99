"""GenEval and its relatives: prompts, detection, rules, statistics, tables and figures."""
