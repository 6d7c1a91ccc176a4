"""Models that go on learning while they serve: the log of updates is the truth, a state is what it makes of a version.

    updates.jsonl     every update, hash-chained, fsynced before it counts, each key once
    versions/N.json   how version N learns: its ``Spec``
    states/SHA.safetensors   a version's state after some update: arrays, never a pickle
    current.json      which version answers, its state, and after which update that was taken

Whoever opens the model takes the state that ``current.json`` names and learns what the log has after it. So a crash
costs time and no update, and a switch of versions is one rename.
"""
