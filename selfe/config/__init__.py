"""Settings of a run: schema, recipes, and how they are resolved and described."""
