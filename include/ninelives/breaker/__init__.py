"""A person takes a service's replicas out of its path, and puts them back."""
