"""What workflow steps reach outside of the pipeline: other hosts, files, the log."""
