"""Where replicas really run on Kubernetes and how many there are to be, against what the estate compiles."""
