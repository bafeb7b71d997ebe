"""Settings of every program: the schema, the loader, and the recipes people read."""
