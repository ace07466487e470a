"""Models for neuron-zoo; `separable_cnn.py` registers one, the files beside it are its weights."""
