"""What can be set: the schema, where it is read from, and how a bad value is reported."""
