"""What every other room of the pipeline builds on: messages, outcomes, errors, the two buffers, the ports."""
