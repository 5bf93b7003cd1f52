"""The command line: one file a verb, and a frame that lists, parses and runs them."""
