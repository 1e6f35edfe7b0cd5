"""The face: command line, pipeline, report."""
