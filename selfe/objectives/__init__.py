"""Training objectives behind one contract (selfe.objectives.base.Objective)."""
