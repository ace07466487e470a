"""The shipped weights, `<model>.<tag>.weights.h5`, and the card of each, `<model>.<tag>.json`."""
