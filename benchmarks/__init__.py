"""Speed and memory of the backends, measured side by side; `maxmig bench` runs it."""
