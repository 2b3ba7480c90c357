"""Pure decisions: no I/O, no clock of their own; times come in as arguments, so that tests need no sleep."""
