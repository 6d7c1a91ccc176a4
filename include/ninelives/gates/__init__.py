"""The gate before data may serve: yes or no, with reasons, and no wherever it could not look."""
