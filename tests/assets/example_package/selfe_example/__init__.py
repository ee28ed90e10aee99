"""Everything that selfe-bench takes from other packages, one file each."""
