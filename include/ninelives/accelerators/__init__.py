"""Whether the accelerators of this machine may serve a model: what they say of themselves, against what is needed."""
