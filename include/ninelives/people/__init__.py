"""What a person is asked to do when automation stops, in this estate and this state, and who answered what."""
