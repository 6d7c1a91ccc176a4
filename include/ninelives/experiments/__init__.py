"""Experiments on users: who sees what, what may be risked, and what came of it. Pure.

from ninelives.experiments.assign import Experiment, assign
assign(Experiment("shorter-answers", 0.1), "user-17")
"""
