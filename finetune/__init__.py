"""Task examples in, a task model, its student and its exported files out."""
